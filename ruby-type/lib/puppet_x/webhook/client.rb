# frozen_string_literal: true

require 'net/http'
require 'openssl'
require 'puppet/http'

module PuppetX
  module Webhook
    # The call did not succeed, but the same call may in a while.
    class Temporary < Puppet::Error
      # Seconds after which the other side asks to be tried again, or nil.
      attr_reader :after

      def initialize(message, after = nil)
        super(message)
        @after = after
      end
    end

    # The call did succeed, but what is to be done afterwards did not.
    class Unkept < Puppet::Error; end

    # What came back.
    class Answer
      # The status as a number, the headers by name, and where it came from.
      attr_reader :code, :header, :uri
      # The body, byte for byte; whether more came than is read.
      attr_accessor :bytes, :cut

      def initialize(code, header, uri)
        @code = code
        @header = header
        @uri = uri
        @bytes = +''.b
        @cut = false
      end

      # The body as text, whatever it is.
      def text
        @bytes.dup.force_encoding(Encoding::UTF_8).scrub
      end

      # The media type in lower case, without parameters.
      def type
        @header['Content-Type'].to_s[/\A[^;]*/].strip.downcase
      end
    end

    # Requests over connections of Puppet's HTTP client, so proxy, CA, certificate and CRL are Puppet's. The request on them is
    # ours, because the client's own get and post sleep for up to half an hour on an answer with Retry-After, put a body and a
    # content type on every POST, know no PATCH, take no time limit, and write URLs and messages that no one has masked.
    class Client
      # Seconds without a byte after which a stream is taken for broken: a listener gives a sign of life every 20.
      def max_silence
        60
      end

      # @param tls false, :puppet, :system, or a hash with ca, cert and key
      # @param secrets [Secrets] what must not get into debug lines
      # @param most bytes of an answer that are read
      def initialize(tls, secrets, most)
        @tls = tls
        @most = most
        @secrets = secrets
      end

      # One request and its answer. There is no time limit here: the caller keeps one for all of what it does.
      # @yield [answer, part] with a block, an event stream: first without a part, then each as it comes. It is not kept, and
      #   ends when the block says false. Errors must not leave the block: Puppet's client takes them for its own.
      # @return [Answer] its body cut at the most
      # @raise [Puppet::Error] with a message of Puppet's client, not masked; Temporary unless it is about trust
      def exchange(method, uri, headers, content = nil, &stream)
        request = Net::HTTPGenericRequest.new(method, !content.nil?, method != 'HEAD', uri, headers)
        request.body = content
        without_puppets_own_words(uri) do
          Puppet.runtime[:http].connect(uri, options: trust) { |http| converse(http, request, stream) }
        end
      rescue Puppet::SSL::SSLError => e
        raise Puppet::Error, e.message
      rescue Puppet::HTTP::HTTPError => e
        raise Temporary, e.message.sub("Request to #{uri} ", '')
      end

      private

      def converse(http, request, stream)
        http.read_timeout = http.write_timeout = nil
        answer = nil
        catch(:enough) do
          http.request(request) do |response|
            answer = Answer.new(response.code.to_i, response, request.uri)
            Puppet.debug { "#{request.method} #{@secrets.mask(request.uri.to_s)} returned #{answer.code}" }
            streamed = stream if answer.type == 'text/event-stream' && answer.code.between?(200, 299)
            http.read_timeout = max_silence if streamed
            take = streamed || method(:keep)
            take.call(answer, nil)
            response.read_body { |part| throw :enough unless take.call(answer, part) }
          end
        end
        answer
      ensure
        # A connection left in Puppet's pool half read or without time limits would spoil the next request to the same host.
        http.finish if http.started?
      end

      def keep(answer, part)
        answer.bytes << part.to_s
        answer.cut = answer.bytes.bytesize > @most
        !answer.cut
      end

      # Puppet's setting http_debug copies every byte to standard error, and at debug level its client names the host.
      def without_puppets_own_words(uri)
        wire = Puppet[:http_debug]
        level = Puppet::Util::Log.level
        Puppet[:http_debug] = false unless @secrets.none?
        Puppet::Util::Log.level = :info if level == :debug && @secrets.mask(uri.host) != uri.host
        yield
      ensure
        Puppet[:http_debug] = wire
        Puppet::Util::Log.level = level
      end

      # Nothing said, Puppet's client trusts Puppet's CA and CRLs and shows this host's certificate.
      def trust
        case @tls
        when :system then { include_system_store: true }
        when Hash then { ssl_context: @ssl_context ||= ssl_context(@tls) }
        else {}
        end
      end

      def ssl_context(files)
        cas = pem(files['ca']).scan(/-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----/m).map do |text|
          parse(files['ca']) { OpenSSL::X509::Certificate.new(text) }
        end
        raise Puppet::Error, "tls: #{files['ca']} holds no certificate" if cas.empty?

        ssl = Puppet::SSL::SSLProvider.new
        return ssl.create_root_context(cacerts: cas, revocation: false) unless files['cert']

        cert = parse(files['cert']) { OpenSSL::X509::Certificate.new(pem(files['cert'])) }
        # The empty passphrase keeps OpenSSL from asking for one on the terminal.
        key = parse(files['key']) { OpenSSL::PKey.read(pem(files['key']), '') }
        ssl.create_context(cacerts: cas, crls: [], private_key: key, client_cert: cert, revocation: false)
      end

      def pem(path)
        File.read(path)
      rescue SystemCallError => e
        raise Puppet::Error, "tls: #{e.message}"
      end

      def parse(path)
        yield
      rescue OpenSSL::OpenSSLError => e
        raise Puppet::Error, "tls: #{path}: #{e.message}"
      end
    end
  end
end

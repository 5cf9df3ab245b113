# frozen_string_literal: true

require 'json'
require 'net/http'
require 'net/http/status'
require 'openssl'
require 'timeout'
require 'uri'

# The connection comes from Puppet's HTTP client, so proxy, CA, certificate and CRL are Puppet's. The request on it is ours,
# because the client's own get and post sleep for up to half an hour on an answer with Retry-After, put a body and a content
# type on every POST, know no PATCH, take no time limit, and write URLs and messages that no one has masked.
Puppet::Type.type(:http).provide(:puppet) do
  desc "Sends over Puppet's own HTTP client."

  # What came back: `code` a number, `header` by name, `uri` where it came from, `text` its body.
  const_set(:Answer, Struct.new(:code, :header, :uri, :text))

  # Bytes of an answer that are read. A run's output is far below it unless its route allows more than the usual 10 MiB.
  def max_answer
    32 * 1024 * 1024
  end

  # Characters of a listener's reason that go into a message: some sentences, but no page.
  def max_reason
    500
  end

  # Lines of a run's output that are logged: each becomes a line of the report, which is stored for every Puppet run.
  def max_lines
    200
  end

  # As many as a browser follows before it suspects a circle.
  def max_redirects
    20
  end

  # The request in a few words, masked: `POST http://my.puppetmaster.com:6969/deploy`.
  def summary(method)
    "#{method.to_s.upcase} #{mask(url.to_s)}"
  end

  # Sends the request, with `wait` follows the run to its end, and returns a line for the report.
  # @raise [Puppet::Error] with a masked message, when the call did not succeed.
  def deliver(method)
    @sending = summary(method)
    @pending = 'no answer'
    Timeout.timeout(resource[:timeout]) { settle(call(method.to_s.upcase)) }
  rescue Timeout::Error
    raise Puppet::Error, "#{@sending}: #{@pending} within #{resource[:timeout]} seconds (timeout)"
  end

  private

  def url
    scheme = resource[:tls] ? 'https' : 'http'
    route = percent_encode(plaintext(:route).sub(%r{\A/}, ''))
    route += "#{route.include?('?') ? '&' : '?'}async=false" if resource.wait? && route !~ /[?&]async=/
    URI("#{scheme}://#{resource[:fqdn]}:#{resource[:port]}/#{route}")
  end

  # Leaves what may stand in a path and a query, escapes that are there already included.
  def percent_encode(text)
    text.b.gsub(/[^!-~]|["#<>\[\\\]^`{|}]/n) { |byte| format('%%%02X', byte.ord) }
  end

  # An attribute's value. Deferred ones inside a hash are left to us when Puppet resolves them late (its default from 8 on).
  def given(name)
    @given ||= {}
    @given[name] ||= resolve(resource[name])
  end

  def resolve(value)
    case value
    when Puppet::Pops::Evaluator::DeferredValue then resolve(value.resolve)
    when Puppet::Pops::Types::PSensitiveType::Sensitive then value.class.new(resolve(value.unwrap))
    when Hash then value.transform_values { |item| resolve(item) }
    when Array then value.map { |item| resolve(item) }
    else value
    end
  end

  def plaintext(name)
    resource.class.reveal(given(name))
  end

  # ---- sending -------------------------------------------------------------------------------------------------------

  # @return [Answer] the final one, after redirects.
  def call(method)
    uri = url
    content = body
    max_redirects.times do
      answer = exchange(method, uri, content)
      return answer unless [301, 302, 307, 308].include?(answer.code) && !success?(answer)

      uri = redirection(answer)
    end
    raise Puppet::Error, "#{@sending}: more than #{max_redirects} redirects"
  end

  # Data and headers are meant for the host that the manifest names: an answer must not send them elsewhere, nor in clear.
  def redirection(answer)
    from = answer.uri
    to = from.merge(answer.header['Location'])
    return to if to.is_a?(URI::HTTP) && to.host.casecmp?(from.host) && (to.scheme == 'https' || from.scheme == 'http')

    refuse(answer, "it redirects to #{said(to.to_s)}, which leaves #{from.scheme}://#{from.host} and is not followed")
  rescue URI::Error, ArgumentError
    refuse(answer, 'it redirects without a usable Location')
  end

  # One request and its answer, whose body is cut at `max_answer`.
  def exchange(method, uri, content = nil, headers = self.headers(method, content))
    request = Net::HTTPGenericRequest.new(method, !content.nil?, method != 'HEAD', uri, headers)
    request.body = content
    without_wire_log do
      Puppet.runtime[:http].connect(uri, options: trust) { |http| converse(http, request) }
    end
  rescue Puppet::HTTP::HTTPError, Puppet::SSL::SSLError => e
    raise Puppet::Error, "#{@sending}: #{mask(e.message.sub("Request to #{uri} ", ''))}"
  end

  def converse(http, request)
    # `deliver` keeps one limit for the whole call; limits for a single read or write would end a long wait early.
    http.read_timeout = http.write_timeout = nil
    response = nil
    text = +''
    catch(:enough) do
      http.request(request) do |incoming|
        response = incoming
        incoming.read_body do |part|
          text << part
          throw :enough if text.bytesize > max_answer
        end
      end
    end
    text = text.force_encoding(Encoding::UTF_8).scrub
    answer = self.class::Answer.new(response.code.to_i, response, request.uri, text)
    Puppet.debug { "#{request.method} #{mask(request.uri.to_s)} returned #{status(answer)}" }
    answer
  ensure
    # A connection left in Puppet's pool half read or without time limits would spoil the next request to the same host.
    http.finish if http.started?
  end

  # Puppet's setting http_debug copies every byte to standard error.
  def without_wire_log
    before = Puppet[:http_debug]
    Puppet[:http_debug] = false if secrets.any?
    yield
  ensure
    Puppet[:http_debug] = before
  end

  def headers(method, content)
    fields = {
      'accept' => 'application/json, application/problem+json, */*;q=0.1',
      'accept-encoding' => 'identity',
      'connection' => 'close',
      'user-agent' => Puppet[:http_user_agent],
      'x-puppet-version' => Puppet.version
    }
    fields['content-type'] = 'application/json' if content
    # Some servers answer 411 to a POST that says nothing about its length.
    fields['content-length'] = '0' if content.nil? && %w[POST PUT PATCH].include?(method)
    header = plaintext(:header) || {}
    header = { 'content-type' => header } if header.is_a?(String)
    header.each { |name, value| fields[name.downcase] = value.to_s }
    # As text the listener would send the output while it comes, with a status that says nothing of the outcome.
    fields['accept'] = 'application/json' if resource.wait?
    fields
  end

  def body
    data = plaintext(:data)
    return data if data.nil? || data.is_a?(String)

    JSON.generate(plain(data))
  rescue JSON::GeneratorError
    # Its message quotes the value.
    raise Puppet::Error, 'data cannot be written as JSON: it holds text that is not UTF-8, or a number that is not finite'
  end

  # Puppet's richer values (timestamps, versions) become the text that Puppet itself writes for them.
  def plain(value)
    case value
    when Hash then value.to_h { |key, item| [key.to_s, plain(item)] }
    when Array then value.map { |item| plain(item) }
    when nil, :undef then nil
    when String, Integer, Float, true, false then value
    else value.to_s
    end
  end

  # ---- trust ---------------------------------------------------------------------------------------------------------

  # Nothing said, the client trusts Puppet's CA and CRLs and shows this host's certificate.
  def trust
    case resource[:tls]
    when :system then { include_system_store: true }
    when Hash then { ssl_context: @ssl_context ||= ssl_context(resource[:tls]) }
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

  # ---- judging -------------------------------------------------------------------------------------------------------

  def settle(answer)
    runs = runs_in(answer)
    if resource.wait?
      raise Puppet::Error, "#{@sending}: #{status(answer)}, which names no run" if answer.code == 202 && runs.empty?

      runs = runs.map { |run| finish(run, answer.uri) }
      failed = runs.reject { |run| run['state'] == 'succeeded' }
      raise Puppet::Error, "#{@sending}: #{failed.map { |run| verdict(run) }.join('; ')}" if failed.any?
    end
    refuse(answer, reason(answer)) unless success?(answer)
    ["sent #{@sending}: #{status(answer)}", *runs.map { |run| verdict(run) }, *ignored(answer)].join(', ')
  end

  def success?(answer)
    resource[:returns].any? { |range| range.cover?(answer.code) }
  end

  def refuse(answer, why)
    expected = resource[:returns].map { |range| range.minmax.uniq.join('-') }.join(', ')
    retry_after = answer.header['Retry-After']
    later = "it asks to try again after #{said(retry_after).sub(/\A\d+\z/, '\0 seconds')}" if retry_after
    raise Puppet::Error, ["#{@sending}: #{status(answer)} instead of #{expected}", why, later].compact.join(': ')
  end

  # `202 Accepted`, in the words of the standard: those of the other side could be anything.
  def status(answer)
    [answer.code, Net::HTTP::STATUS_CODES[answer.code]].compact.join(' ')
  end

  # What the listener gives as the reason: a problem document's detail or title, else the first line of a text.
  def reason(answer)
    document = json(answer.text)
    text = document.values_at('detail', 'title').find { |item| item.is_a?(String) && !item.empty? } if document.is_a?(Hash)
    text ||= answer.text[/^.*\S.*$/] unless answer.header['Content-Type'].to_s.include?('html')
    text && said(text)
  end

  # Why a verified delivery led to no run, when the listener says so: success, but worth a word.
  def ignored(answer)
    document = json(answer.text)
    return [] unless document.is_a?(Hash) && document['ignored'].is_a?(Array)

    ["ignored: #{document['ignored'].map { |item| said(item.to_s) }.join('; ')}"]
  end

  def json(text)
    JSON.parse(text)
  rescue JSON::ParserError
    nil
  end

  # ---- runs ----------------------------------------------------------------------------------------------------------

  # The runs that an answer of a puppet-webhook listener tells of: `{"runs": [...]}`, a run by itself, or, where the route words
  # its own answers, only a Location.
  def runs_in(answer)
    document = json(answer.text)
    document = {} unless document.is_a?(Hash)
    runs = document['runs'].is_a?(Array) ? document['runs'] : [document]
    runs = runs.select { |run| run.is_a?(Hash) && run['id'].to_s =~ /\A\w{26}\z/ && run['state'].is_a?(String) }
    accepted = answer.header['Location'].to_s[%r{/-/runs/(\w{26})\z}, 1] if answer.code == 202 && runs.empty?
    accepted ? [{ 'id' => accepted, 'state' => 'queued' }] : runs
  end

  # Follows a run until it is over and logs what it printed.
  # @return [Hash] the run as it ended.
  def finish(run, listener)
    uri = listener.merge("/-/runs/#{run['id']}")
    pause = 0.25
    while %w[queued running].include?(run['state'])
      @pending = "run #{run['id']} was #{run['state']} when the listener last told of it, and not over"
      sleep(pause)
      # Often enough that a short run costs no time, seldom enough that a fleet's waiting does not burden the listener.
      pause = [pause * 1.5, 5].min
      answer = ask(uri)
      run = runs_in(answer).first || lose(run, answer) if answer
    end
    show(output(run, uri))
    run
  end

  # A listener stops waiting when it is about to be restarted; the run goes on after that, so wait for it to be back.
  # @return [Answer, nil]
  def ask(uri)
    answer = exchange('GET', uri)
    answer unless answer.code == 503
  rescue Puppet::Error
    nil
  end

  # An answer that was waited for brings the end of the output along, one about a run says where all of it is.
  def output(run, uri)
    kept = run['output'].is_a?(Hash) ? run['output'] : {}
    from = kept['from']
    missing = "[the first #{from} bytes are left out; the listener has them]\n" if from.is_a?(Integer) && from.positive?
    return "#{missing}#{kept['text']}" if kept['text'].is_a?(String)

    answer = exchange('GET', uri.merge("#{uri.path}/output"), nil, headers('GET', nil).merge('accept' => 'text/plain'))
    answer.code == 200 ? answer.text : "[its output cannot be read: #{status_and_reason(answer)}]"
  end

  def lose(run, answer)
    raise Puppet::Error, "#{@sending}: run #{run['id']} was accepted but cannot be followed: #{status_and_reason(answer)}"
  end

  def status_and_reason(answer)
    [status(answer), reason(answer)].compact.join(': ')
  end

  def show(output)
    lines = opaque? ? ['[output redacted]'] : mask(printable(output)).lines.map(&:chomp)
    if lines.size > max_lines
      left_out = lines.slice!(max_lines / 2...-max_lines / 2).size
      lines.insert(max_lines / 2, "[#{left_out} lines left out; the listener has them all]")
    end
    lines.each { |line| resource.send_log(resource[:loglevel], line) }
  end

  # `run 01J… failed: step 1 (command) exited with 3`
  def verdict(run)
    why = run.values_at('message', 'reason').find { |text| text.is_a?(String) && !text.empty? }
    why = nil if run['state'] == 'succeeded'
    ["run #{run['id']} #{said(run['state'])}", why && said(why)].compact.join(': ')
  end

  # ---- masking -------------------------------------------------------------------------------------------------------

  # Text of the other side, fit for a message: masked, on one line, cut.
  def said(text)
    return '[redacted]' if opaque?

    line = mask(printable(text.to_s)).gsub(/\s+/, ' ').strip
    line.length > max_reason ? "#{line[0, max_reason]}…" : line
  end

  # Without colours and other control sequences, which could rewrite what a terminal shows, or stand within a secret.
  def printable(text)
    text.scrub.gsub(%r{\e\[[0-9;?]*[ -/]*[@-~]}, '').gsub(/[^[:print:]\t\n]/, '')
  end

  def mask(text)
    secrets.empty? ? text.scrub : text.scrub.gsub(Regexp.union(secrets), '[redacted]')
  end

  # Whether a whole text is secret: an answer may repeat a part of it, which nobody could recognise.
  def opaque?
    %i[data route].any? { |name| plaintext(name).is_a?(String) && secret_values(name).any? }
  end

  # What to mask: each secret, the longer words of it (the token in "Bearer …"), and the forms in which they travel.
  def secrets
    @secrets ||= begin
      numbers, texts = %i[data header route].flat_map { |name| secret_values(name) }.partition { |item| item.is_a?(Numeric) }
      words = texts.flat_map do |item|
        text = printable(item.to_s.dup.force_encoding(Encoding::UTF_8))
        [text, *text.split.select { |word| word.length >= 4 }]
      end
      forms = words.flat_map do |word|
        [word, JSON.generate(word)[1..-2], URI.encode_www_form_component(word), percent_encode(word)]
      end
      # The longest first, or a secret that begins with another would be masked in part only.
      forms.uniq.reject(&:empty?).sort_by { |form| -form.length } +
        # Inside a longer number it is another number.
        numbers.uniq.map { |number| /(?<![\w.])#{Regexp.escape(number.to_s)}(?![\w.])/ }
    end
  end

  def secret_values(name)
    leaves(given(name), resource.parameter(name)&.sensitive)
  end

  def leaves(value, secret)
    case value
    when Puppet::Pops::Types::PSensitiveType::Sensitive then leaves(value.unwrap, true)
    when Hash then value.values.flat_map { |item| leaves(item, secret) }
    when Array then value.flat_map { |item| leaves(item, secret) }
    when nil, true, false, :undef then []
    else secret ? [value] : []
    end
  end
end

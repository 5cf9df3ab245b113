# frozen_string_literal: true

require 'json'
require 'openssl'
require 'securerandom'
require 'time'
require_relative 'client'

module PuppetX
  module Webhook
    # What was sent with success, by the titles of resources with `once`: one private file in Puppet's state directory. A
    # request stands in it as a keyed hash (HMAC-SHA256) under a random key that never leaves the file, so the file tells
    # nothing of what was sent, and to guess at a short secret takes the right to read the file.
    class Successes
      # @param dir [String] Puppet's state directory
      def initialize(dir = Puppet[:statedir])
        @file = File.join(dir, 'webhook_http.json')
      end

      # Whether the last success under this title was this very request.
      # @param parts [Array<String>] what the request is made of
      def include?(title, parts)
        known = read
        known['sent'].fetch(title, {})['fingerprint'] == fingerprint(known['key'], parts)
      end

      # Keeps that this request was sent with success.
      # @raise [Unkept]
      def add(title, parts)
        # Two Puppet runs at the same time (an agent's and somebody's puppet apply) must not lose each other's.
        File.open("#{@file}.lock", File::RDWR | File::CREAT, 0o600) do |lock|
          lock.flock(File::LOCK_EX)
          known = read
          known['sent'][title] = { 'fingerprint' => fingerprint(known['key'], parts), 'at' => Time.now.utc.iso8601 }
          Puppet::FileSystem.replace_file(@file, 0o600) { |file| file.write(JSON.pretty_generate(known)) }
        end
      rescue SystemCallError => e
        raise Unkept, "it could not be noted for once, so it will be sent again: #{e.message}"
      end

      private

      # A file that is not what was written is as good as none: what it stands for is sent once more.
      def read
        known = JSON.parse(File.read(@file, encoding: Encoding::UTF_8))
        return known if valid?(known)

        unusable('it is not what was written')
      rescue Errno::ENOENT
        nothing
      rescue JSON::ParserError, ArgumentError, EncodingError
        unusable('it is not JSON')
      rescue SystemCallError => e
        raise Puppet::Error, "once: what was sent before cannot be read: #{e.message}"
      end

      def valid?(known)
        known.is_a?(Hash) && known['key'].to_s =~ /\A\h{64}\z/ && known['sent'].is_a?(Hash) &&
          known['sent'].values.all? { |entry| entry.is_a?(Hash) && entry['fingerprint'].is_a?(String) }
      end

      def unusable(why)
        Puppet.warning("#{@file}: #{why}; requests with once are sent again, and the file is then written anew")
        nothing
      end

      def nothing
        { 'key' => SecureRandom.hex(32), 'sent' => {} }
      end

      # Each part with its length before it, or two requests could read the same.
      def fingerprint(key, parts)
        text = parts.map { |part| "#{part.bytesize}:#{part.b}" }.join
        OpenSSL::HMAC.hexdigest('SHA256', [key].pack('H*'), text)
      end
    end
  end
end

# frozen_string_literal: true

require 'json'
require 'uri'

# Ruby code that modules bring along, each under its own name.
module PuppetX
  # What the resource type `http` and the function `webhook::call` are made of.
  module Webhook
    # What must not be shown, and texts without it. Puppet itself masks properties only; a request is made of parameters, and
    # its answer may repeat any of them.
    class Secrets
      # The same value with what Puppet resolves late (its default from 8 on) resolved, Sensitive still around it.
      def self.resolve(value)
        case value
        when Puppet::Pops::Evaluator::DeferredValue then resolve(value.resolve)
        when Puppet::Pops::Types::PSensitiveType::Sensitive then value.class.new(resolve(value.unwrap))
        when Hash then value.transform_values { |item| resolve(item) }
        when Array then value.map { |item| resolve(item) }
        else value
        end
      end

      # What a value holds without the Sensitive around it, at any depth. For checks and for sending, never for messages.
      def self.reveal(value)
        case value
        when Puppet::Pops::Types::PSensitiveType::Sensitive then reveal(value.unwrap)
        when Hash then value.each_with_object({}) { |(key, item), plain| plain[reveal(key)] = reveal(item) }
        when Array then value.map { |item| reveal(item) }
        else value
        end
      end

      # A text that is fit for a terminal: without colours and other control sequences, which could rewrite what it shows, or
      # stand within a secret.
      def self.printable(text)
        text.scrub.gsub(%r{\e\[[0-9;?]*[ -/]*[@-~]}, '').gsub(/[^[:print:]\t\n]/, '')
      end

      # Escapes what may not stand in a path or a query; escapes that are there already stay.
      def self.percent_encode(text)
        text.b.gsub(/[^!-~]|["#<>\[\\\]^`{|}]/n) { |byte| format('%%%02X', byte.ord) }
      end

      def initialize
        @texts = []
        @numbers = []
        @opaque = false
      end

      # Adds what is secret in a value: what stands in a Sensitive, or all of it.
      # @param whole says that all of it is.
      # @param opaque says that an answer may repeat a part of it, which nobody could recognise, when it is one text.
      def add(value, whole: false, opaque: false)
        numbers, texts = leaves(value, whole).partition { |item| item.is_a?(Numeric) }
        @opaque ||= opaque && self.class.reveal(value).is_a?(String) && texts.any?
        @numbers |= numbers
        @texts |= texts.map { |text| self.class.printable(text.to_s.dup.force_encoding(Encoding::UTF_8)) }
        @pattern = nil
      end

      def none?
        @texts.empty? && @numbers.empty?
      end

      # Whether nothing of an answer may be shown but its status.
      def opaque?
        @opaque
      end

      # The text with each secret replaced.
      def mask(text)
        text = text.scrub
        none? ? text : text.gsub(pattern, '[redacted]')
      end

      # Text of the other side, fit for a message: masked, on one line, cut.
      def said(text)
        return '[redacted]' if opaque?

        line = mask(self.class.printable(text.to_s)).gsub(/\s+/, ' ').strip
        line.length > max_said ? "#{line[0, max_said]}…" : line
      end

      # Text of the other side, fit for the log: masked, its lines kept.
      def lines(text)
        mask(self.class.printable(text)).lines.map(&:chomp)
      end

      private

      # Characters of a text of the other side that go into a message: some sentences, but no page.
      def max_said
        500
      end

      def leaves(value, secret)
        case value
        when Puppet::Pops::Types::PSensitiveType::Sensitive then leaves(value.unwrap, true)
        when Hash then value.values.flat_map { |item| leaves(item, secret) }
        when Array then value.flat_map { |item| leaves(item, secret) }
        when nil, true, false, :undef, Regexp then []
        else secret ? [value] : []
        end
      end

      # Each secret, the longer words of it (the token in "Bearer …"), and the forms in which they travel.
      def pattern
        @pattern ||= begin
          words = @texts.flat_map { |text| [text, *text.split.select { |word| word.length >= 4 }] }
          forms = words.flat_map do |word|
            [word, JSON.generate(word)[1..-2], URI.encode_www_form_component(word), self.class.percent_encode(word)]
          end
          # The longest first, or a secret that begins with another would be masked in part only.
          forms = forms.map { |form| form.dup.force_encoding(Encoding::UTF_8) }.uniq.reject(&:empty?)
          # Inside a longer number a number is another one.
          numbers = @numbers.map { |number| /(?<![\w.])#{Regexp.escape(number.to_s)}(?![\w.])/ }
          Regexp.union(forms.sort_by { |form| -form.length } + numbers)
        end
      end
    end
  end
end

# frozen_string_literal: true

module PuppetX
  module Webhook
    # What a run prints, on its way into Puppet's log: of a long output the beginning as it comes, and the end.
    class Printed
      # What was printed, as far as it was to be kept and is no longer than that.
      attr_reader :text
      # Whether more was printed than is kept.
      attr_reader :cut

      # @param first how many lines are logged at once
      # @param last how many lines are logged at the end, of those that come after the first
      # @param keep how many bytes of text to keep
      # @yield [line] each line to log
      def initialize(secrets, first:, last:, keep:, &log)
        @secrets = secrets
        @first = first
        @last = last
        @keep = keep
        @log = log
        @count = 0
        @end = []
        @text = +''
        @cut = false
        @hidden = false
      end

      # @param text one or several lines
      def tell(text)
        retain(text.end_with?("\n") ? text : "#{text}\n")
        return hide if @secrets.opaque?

        lines = @secrets.lines(text)
        (lines.empty? ? [''] : lines).each { |line| show(line) }
      end

      # All of the output from its beginning, of which the first lines may have been told before.
      def tell_rest(text)
        rest = text.lines.drop(@count).join
        tell(rest) unless rest.empty?
      end

      # Logs what was held back.
      def close
        left_out = @count - @first - @end.size
        @log.call("[#{left_out} lines left out; the listener has them all]") if left_out.positive?
        @end.each(&@log)
        @end = []
      end

      private

      def hide
        @log.call('[output redacted]') unless @hidden
        @hidden = true
      end

      def show(line)
        @count += 1
        return @log.call(line) if @count <= @first

        @end << line
        @end.shift if @end.size > @last
      end

      def retain(text)
        @cut ||= @text.bytesize + text.bytesize > @keep
        @text << text unless @cut
      end
    end
  end
end

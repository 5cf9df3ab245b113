# frozen_string_literal: true

require 'json'

module PuppetX
  module Webhook
    # The runs of one call as a listener tells of them in an event stream: `output`, a line of a run whose id is the offset
    # behind it, and at the end `run`, the run as JSON. A stream that breaks off is begun again from the start.
    class Followed
      # The runs by id, each as it was last told.
      attr_reader :runs
      # Why the stream cannot be taken any further, or nil.
      attr_reader :trouble

      # @yield [text] each piece of output, mostly a line, as it comes
      def initialize(&output)
        @output = output
        @runs = {}
        @known = {}
        @told = {}
      end

      # Takes what came, see Client#exchange.
      # @return [Boolean] whether to go on
      def take(answer, part)
        part ? @rest << part : start(answer)
        while (event = @rest.slice!(/\A.*?\r?\n\r?\n/mn))
          hear(event.force_encoding(Encoding::UTF_8).scrub)
        end
        @trouble ||= 'what it streams is no output of a run' if @rest.bytesize > max_event
        @trouble.nil?
      end

      # Whether there is a run that may not have ended.
      def open?
        @runs.values.any? { |run| Followed.open?(run) }
      end

      def self.open?(run)
        %w[queued running].include?(run['state'])
      end

      # The id that a Location tells, or nil.
      def self.run_id(location)
        location.to_s[%r{/-/runs/(\w{26})\z}, 1]
      end

      private

      # Lines that are recognised when a stream begins again; what is beyond is told twice rather than not at all.
      def max_known
        100_000
      end

      # Bytes of one event: a listener's are some 64 KiB at most.
      def max_event
        1024 * 1024
      end

      def start(answer)
        @rest = +''.b
        @known.merge!(@told)
        @told.clear
        id = self.class.run_id(answer.header['Location'])
        return if id.nil? || @runs.key?(id)
        return @trouble = "the listener took the same call for a new one, run #{id}" if @runs.any?

        @runs[id] = { 'id' => id, 'state' => 'queued' }
      end

      def hear(event)
        fields = event.split(/\r?\n/).map { |line| line.split(/: ?/, 2) }
        data = fields.select { |name, _| name == 'data' }.map(&:last).join("\n")
        case fields.assoc('event')&.last
        when 'output' then tell(fields.assoc('id')&.last, data)
        when 'run' then note(data)
        end
      end

      # Started again after a crash, a run prints from the beginning. So what has been told is known by offset and text.
      def tell(offset, data)
        @output.call(data) unless @known[offset] == data.hash
        @told[offset] = data.hash if @known.size + @told.size < max_known
      end

      def note(data)
        run = JSON.parse(data)
        @runs[run['id']] = run if run.is_a?(Hash) && run['id'].is_a?(String) && run['state'].is_a?(String)
      rescue JSON::ParserError
        nil
      end
    end
  end
end

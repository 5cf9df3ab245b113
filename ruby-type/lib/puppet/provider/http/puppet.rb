# frozen_string_literal: true

require 'json'
require 'net/http/status'
require 'openssl'
require 'securerandom'
require 'timeout'
require 'uri'
# By their place: a module's lib is not on Ruby's load path everywhere a provider is loaded.
require_relative '../../../puppet_x/webhook/secrets'
require_relative '../../../puppet_x/webhook/client'
require_relative '../../../puppet_x/webhook/followed'
require_relative '../../../puppet_x/webhook/printed'
require_relative '../../../puppet_x/webhook/successes'

Puppet::Type.type(:http).provide(:puppet) do
  desc "Sends over Puppet's own HTTP client."

  # Lines of a run's output that are logged: each becomes a line of the report, which is stored for every Puppet run. All but
  # the last `max_last_lines` of them are logged as they come.
  def max_lines
    1000
  end

  def max_last_lines
    100
  end

  # As many as a browser follows before it suspects a circle.
  def max_redirects
    20
  end

  # Seconds that a listener may have us wait before the next try, however long it asks for: the Puppet run stands still.
  def max_retry_after
    60
  end

  # Bytes of an answer or of a run's output that are taken in. An output is far below it unless its route allows more than the
  # usual 10 MiB.
  def max_kept
    32 * 1024 * 1024
  end

  # The request in a few words, masked: `POST http://my.puppetmaster.com:6969/deploy`.
  def summary(method)
    "#{method.to_s.upcase} #{mask(url.to_s)}"
  end

  # Why there is nothing to send, or nil: `creates`, `once`, `onlyif` and `unless` are asked in this order. Probes are requests;
  # they are made in noop mode too.
  # @raise [Puppet::Error] when a probe brings no answer to go by
  def needless(method)
    created = Array(resource[:creates]).find { |path| File.exist?(path) }
    return "#{created} exists" if created
    return 'it was sent before, and is the same' if resource.once? && successes.include?(resource[:name], parts(method))

    return "#{@sending} does not say so" if probes(:onlyif).any? { |probe| !holds?(probe, 'onlyif') }

    "#{@sending} says so" if probes(:unless).any? { |probe| holds?(probe, 'unless') }
  end

  # Sends the request, with `wait` follows the run to its end, does what is to be done after a success, and returns a line for
  # the report.
  # @raise [Puppet::Error] with a masked message, when the call did not succeed.
  def deliver(method)
    answer, line = obtain(method)
    saved = save(answer)
    successes.add(resource[:name], parts(method)) if resource.once?
    [line, saved].compact.join(', ')
  rescue PuppetX::Webhook::Unkept => e
    raise Puppet::Error, "#{line}: #{e.message}"
  end

  # What came back, for a function: the body, or with `wait` what the run printed.
  # @return [Array(String, String)] the text and its media type
  def fetch(method)
    @quiet = true
    answer, = obtain(method)
    bytes = content(answer)
    [bytes.dup.force_encoding(Encoding::UTF_8).scrub, @output ? 'text/plain' : answer.type]
  rescue PuppetX::Webhook::Unkept => e
    raise Puppet::Error, "#{@sending}: #{e.message}"
  end

  private

  # @return [Array(Answer, String)] the answer that counts, and a line for the report
  def obtain(method)
    @sending = summary(method)
    # The same for all tries: whoever knows the header takes them for one call.
    @key = SecureRandom.uuid
    ready_to_save
    trying { settle(resource.wait? ? follow(method.to_s.upcase) : call(method.to_s.upcase)) }
  ensure
    @output&.close
  end

  def trying(&block)
    tries = resource[:tries]
    (1..tries).each do |try|
      return limited(&block)
    rescue PuppetX::Webhook::Temporary => e
      raise Puppet::Error, tries > 1 ? "#{e.message} (after #{tries} tries)" : e.message if try == tries

      pause = [resource[:try_sleep], [e.after.to_i, max_retry_after].min].max
      log("#{e.message}; try #{try} of #{tries}, the next in #{pause} seconds")
      sleep(pause)
    end
  end

  # Each try has the time limit for itself. Once the listener has a run, another try would tell nothing new.
  def limited(&block)
    @pending = nil
    Timeout.timeout(resource[:timeout], &block)
  rescue Timeout::Error
    error = @pending ? Puppet::Error : PuppetX::Webhook::Temporary
    raise error, "#{@sending}: #{@pending || 'no answer'} within #{resource[:timeout]} seconds (timeout)"
  end

  # ---- what is sent ----------------------------------------------------------------------------------------------------

  def target
    plaintext(:url) ? uri_of(plaintext(:url)) : uri_here(plaintext(:route))
  end

  def url
    return target unless resource.wait? && target.query.to_s !~ /(?:\A|&)async=/

    target.tap { |waiting| waiting.query = [waiting.query, 'async=false'].compact.join('&') }
  end

  def uri_of(url)
    URI(PuppetX::Webhook::Secrets.percent_encode(url))
  end

  # A route on the host of this resource.
  def uri_here(route)
    path = "/#{PuppetX::Webhook::Secrets.percent_encode(route.sub(%r{\A/}, ''))}"
    return uri_of(plaintext(:url)).merge(path) if plaintext(:url)

    URI("#{tls ? 'https' : 'http'}://#{plaintext(:fqdn)}:#{resource[:port]}#{path}")
  end

  # What makes a request the same as another one, for `once`.
  def parts(method)
    content = body
    [method.to_s, target.to_s, content && content_type, content].map(&:to_s)
  end

  def tls
    return resource[:tls] unless resource[:tls].nil?

    plaintext(:url).to_s =~ /\Ahttps:/i ? :system : false
  end

  # An attribute's value, Sensitive still around its secrets.
  def given(name)
    @given ||= {}
    @given[name] ||= PuppetX::Webhook::Secrets.resolve(resource[name])
  end

  def plaintext(name)
    PuppetX::Webhook::Secrets.reveal(given(name))
  end

  def header
    header = plaintext(:header) || {}
    header.is_a?(String) ? { 'content-type' => header } : header.transform_keys { |name| name.to_s.downcase }
  end

  def content_type
    header['content-type']&.to_s || 'application/json'
  end

  def body
    data = plaintext(:data)
    return data if data.nil? || data.is_a?(String)

    content_type =~ %r{\Aapplication/x-www-form-urlencoded\b}i ? form(plain(data)) : JSON.generate(plain(data))
  rescue JSON::GeneratorError, EncodingError
    # Its message quotes the value.
    raise Puppet::Error, 'data cannot be written down: it holds text that is not UTF-8, or a number that is not finite'
  end

  # A list becomes a field several times, and undef none.
  def form(data)
    flat = data.is_a?(Hash) && data.values.none? { |value| Array(value).any? { |item| item.is_a?(Enumerable) } }
    raise Puppet::Error, 'data: a form is a flat hash of texts, numbers and lists of them' unless flat

    URI.encode_www_form(data.compact)
  end

  # Puppet's richer values (timestamps, versions) become the text that Puppet itself writes for them.
  def plain(value)
    case value
    when Hash then value.each_with_object({}) { |(key, item), hash| hash[key.to_s] = plain(item) }
    when Array then value.map { |item| plain(item) }
    when nil, :undef then nil
    when String, Integer, Float, true, false then value
    else value.to_s
    end
  end

  def headers(method, content)
    fields = {
      'accept' => 'application/json, application/problem+json, */*;q=0.1',
      'accept-encoding' => 'identity',
      'connection' => 'close',
      'idempotency-key' => @key,
      'user-agent' => Puppet[:http_user_agent],
      'x-puppet-version' => Puppet.version
    }.compact
    fields['content-type'] = content_type if content
    # Some servers answer 411 to a POST that says nothing about its length.
    fields['content-length'] = '0' if content.nil? && %w[POST PUT PATCH].include?(method)
    fields.merge!(authorization)
    header.each { |name, value| fields[name] = value.to_s }
    fields.merge!(signature(content.to_s))
    fields
  end

  def authorization
    return { 'authorization' => "Bearer #{plaintext(:token)}" } if given(:token)
    return {} unless given(:user)

    { 'authorization' => "Basic #{basic_credentials}" }
  end

  def basic_credentials
    ["#{plaintext(:user)}:#{plaintext(:password)}"].pack('m0')
  end

  # Over the bytes of the body; the time in it is that of the try. Receivers of such deliveries know them again by the id in
  # these headers, not by Idempotency-Key.
  def signature(content)
    return {} unless given(:hmac)

    secret = hmac['secret']
    id = @key || SecureRandom.uuid
    if hmac['style'] == 'github'
      sum = OpenSSL::HMAC.hexdigest('SHA256', secret, content)
      return { hmac['header'].downcase => "sha256=#{sum}", 'x-github-delivery' => id }
    end

    time = Time.now.to_i
    mac = OpenSSL::HMAC.digest('SHA256', secret.sub(/\Awhsec_/, '').unpack1('m'), "#{id}.#{time}.#{content.b}")
    {
      'webhook-id' => id,
      'webhook-timestamp' => time.to_s,
      'webhook-signature' => "v1,#{[mac].pack('m0')}"
    }
  end

  def hmac
    given = plaintext(:hmac)
    given = { 'secret' => given } unless given.is_a?(Hash)
    { 'style' => 'github', 'header' => 'X-Hub-Signature-256' }.merge(given)
  end

  # ---- sending ---------------------------------------------------------------------------------------------------------

  # @return [Answer] the final one, after redirects.
  def call(method, fields = {}, &stream)
    content = body
    travel(method, url, headers(method, content).merge(fields), content, resource[:returns], &stream)
  end

  # Follows redirects, unless they are among the statuses that are asked for.
  def travel(method, uri, fields, content, wanted, &stream)
    max_redirects.times do
      answer = exchange(method, uri, fields, content, &stream)
      return answer unless [301, 302, 307, 308].include?(answer.code) && !among?(wanted, answer)

      uri = redirection(answer)
    end
    raise Puppet::Error, "#{@sending}: more than #{max_redirects} redirects"
  end

  # Messages of Puppet's client get the request before them, and are masked.
  def exchange(method, uri, fields, content = nil, &stream)
    client(uri).exchange(method, uri, fields, content, &stream)
  rescue PuppetX::Webhook::Temporary => e
    raise PuppetX::Webhook::Temporary, "#{@sending}: #{mask(e.message)}"
  rescue Puppet::Error => e
    raise Puppet::Error, "#{@sending}: #{mask(e.message)}"
  end

  # A probe may be https where the call is not.
  def client(uri)
    @clients ||= Hash.new { |clients, trust| clients[trust] = PuppetX::Webhook::Client.new(trust, secrets, max_kept) }
    @clients[uri.scheme == 'https' ? tls || :system : false]
  end

  # Data and headers are meant for the host that the manifest names: an answer must not send them elsewhere, nor in clear.
  def redirection(answer)
    from = answer.uri
    to = from.merge(answer.header['Location'])
    return to if to.is_a?(URI::HTTP) && to.host.casecmp?(from.host) && (to.scheme == 'https' || from.scheme == 'http')

    left = mask("#{from.scheme}://#{from.host}")
    raise Puppet::Error, "#{@sending}: it redirects to #{said(to.to_s)}, which leaves #{left} and is not followed"
  rescue URI::Error, ArgumentError
    raise Puppet::Error, "#{@sending}: it redirects without a usable Location"
  end

  # ---- probes ----------------------------------------------------------------------------------------------------------

  def probes(name)
    given = plaintext(name)
    (given.is_a?(Array) ? given : [given]).compact.map do |probe|
      next probe if probe.is_a?(Hash)

      probe =~ %r{\Ahttps?://}i ? { 'url' => probe } : { 'route' => probe }
    end
  end

  # Whether the answer to a probe is as the manifest says. No answer, or one that says nothing about it (not allowed, out of
  # order), fails the resource: to guess could send what must not be sent.
  def holds?(probe, name)
    method = probe.fetch('method', 'get').upcase
    uri = probe_uri(probe)
    @sending = "#{name}: #{method} #{mask(uri.to_s)}"
    @key = nil
    statuses = resource.class.statuses(probe.fetch('status', '200-299'))
    trying do
      answer = travel(method, uri, probe_headers(method, uri), nil, statuses)
      unclear(answer) if !among?(statuses, answer) && ([401, 403, 407].include?(answer.code) || passing?(answer))
      among?(statuses, answer) && says?(answer, probe)
    end
  end

  def probe_uri(probe)
    return uri_of(probe['url']) if probe['url']

    probe['route'] ? uri_here(probe['route']) : target
  end

  # Who the caller is, is told to the host of the resource only.
  def probe_headers(method, uri)
    all = headers(method, nil)
    same = [uri.scheme, uri.host, uri.port] == [target.scheme, target.host, target.port]
    same ? all.reject { |name, _| name == 'content-type' } : all.slice('accept', 'accept-encoding', 'connection', 'user-agent')
  end

  def unclear(answer)
    message = "#{@sending}: #{status_and_reason(answer)}, which leaves open whether to send"
    raise PuppetX::Webhook::Temporary.new(message, answer.header['Retry-After']) if passing?(answer)

    raise Puppet::Error, message
  end

  def says?(answer, probe)
    return false if probe.key?('body') && answer.text !~ Regexp.new(probe['body'])

    document = json(answer.text)
    probe.fetch('json', {}).all? { |path, expected| at(document, path) == plain(expected) }
  end

  # The value at a path such as `status.nodes.0.name`, or nil.
  def at(document, path)
    path.to_s.split('.').reduce(document) do |value, key|
      case value
      when Hash then value[key]
      when Array then key =~ /\A\d+\z/ ? value[key.to_i] : nil
      end
    end
  end

  # ---- judging ---------------------------------------------------------------------------------------------------------

  # @return [Array(Answer, String)]
  def settle(answer)
    runs = runs_in(answer)
    if resource.wait?
      raise Puppet::Error, "#{@sending}: #{status(answer)}, which names no run" if answer.code == 202 && runs.empty?

      runs = streamed?(answer) ? @followed.runs.values : runs.map { |run| finish(run, answer.uri) }
      failed = runs.reject { |run| run['state'] == 'succeeded' }
      raise Puppet::Error, "#{@sending}: #{failed.map { |run| verdict(run) }.join('; ')}" if failed.any?
    end
    refuse(answer) unless success?(answer)
    [answer, ["sent #{@sending}: #{status(answer)}", *runs.map { |run| verdict(run) }, *ignored(answer)].join(', ')]
  end

  def success?(answer)
    among?(resource[:returns], answer)
  end

  def among?(statuses, answer)
    statuses.any? { |range| range.cover?(answer.code) }
  end

  # Whether the same request may get another answer in a while: too early, too often, busy, overloaded, being restarted.
  def passing?(answer)
    [408, 409, 425, 429].include?(answer.code) || (answer.code >= 500 && ![501, 505].include?(answer.code))
  end

  def refuse(answer)
    expected = resource[:returns].map { |range| range.minmax.uniq.join('-') }.join(', ')
    retry_after = answer.header['Retry-After']
    later = "it asks to try again after #{said(retry_after).sub(/\A\d+\z/, '\0 seconds')}" if retry_after
    message = ["#{@sending}: #{status(answer)} instead of #{expected}", reason(answer), later].compact.join(': ')
    raise PuppetX::Webhook::Temporary.new(message, retry_after) if passing?(answer)

    raise Puppet::Error, message
  end

  # `202 Accepted`, in the words of the standard: those of the other side could be anything.
  def status(answer)
    [answer.code, Net::HTTP::STATUS_CODES[answer.code]].compact.join(' ')
  end

  # What the listener gives as the reason: a problem document's detail or title, else the first line of a text.
  def reason(answer)
    document = json(answer.text)
    text = document.values_at('detail', 'title').find { |item| item.is_a?(String) && !item.empty? } if document.is_a?(Hash)
    text ||= answer.text[/^.*\S.*$/] unless answer.type.include?('html')
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

  # ---- runs ------------------------------------------------------------------------------------------------------------

  # Sends, and hears what the run prints while it does. When the listener or the connection goes away meanwhile, the same call
  # is made again: by its Idempotency-Key the listener knows it, and tells of the run that it has.
  # @return [Answer] the last one
  def follow(method)
    @followed = PuppetX::Webhook::Followed.new { |text| output.tell(text) }
    pause = 0.25
    loop do
      answer = follow_once(method)
      return answer unless answer.nil? || (@followed.open? && (streamed?(answer) || away?(answer)))

      sleep(pause)
      # Often enough that a restart costs little time, seldom enough that a fleet's waiting does not burden the listener.
      pause = [pause * 1.5, 5].min
    end
  end

  # @return [Answer, nil] nil when the connection broke off while there is a run to wait for
  def follow_once(method)
    known = @followed.runs.keys.first
    fields = { 'accept' => 'text/event-stream, application/json;q=0.9, application/problem+json;q=0.9, */*;q=0.1' }
    answer = call(method, fields) do |came, part|
      goes_on = @followed.take(came, part)
      open = @followed.runs.values.find { |run| PuppetX::Webhook::Followed.open?(run) }
      pending(open) if open
      goes_on
    end
    raise Puppet::Error, "#{@sending}: #{[known && "run #{known}", @followed.trouble].compact.join(': ')}" if @followed.trouble

    lose(known, status_and_reason(answer)) if known && !success?(answer) && !away?(answer) && runs_in(answer).empty?
    answer
  rescue PuppetX::Webhook::Temporary
    raise unless @followed.open?
  end

  def streamed?(answer)
    @followed&.runs&.any? && answer.type == 'text/event-stream'
  end

  # Whether a listener that has a run cannot be asked for it just now. By 409 it says that it does not keep the run any more.
  def away?(answer)
    answer.code != 409 && passing?(answer) && runs_in(answer).empty?
  end

  def pending(run)
    @pending = "run #{run['id']} was accepted but not over"
  end

  # The runs that an answer of a puppet-webhook listener tells of: `{"runs": [...]}`, a run by itself, or, where the route words
  # its own answers, only a Location.
  def runs_in(answer)
    document = json(answer.text)
    document = {} unless document.is_a?(Hash)
    runs = document['runs'].is_a?(Array) ? document['runs'] : [document]
    runs = runs.select { |run| run.is_a?(Hash) && run['id'].to_s =~ /\A\w{26}\z/ && run['state'].is_a?(String) }
    accepted = PuppetX::Webhook::Followed.run_id(answer.header['Location']) if answer.code == 202 && runs.empty?
    accepted ? [{ 'id' => accepted, 'state' => 'queued' }] : runs
  end

  # Follows a run that no stream told of by asking for it until it is over, and logs what it printed.
  # @return [Hash] the run as it ended.
  def finish(run, listener)
    uri = listener.merge("/-/runs/#{run['id']}")
    pause = 0.25
    while PuppetX::Webhook::Followed.open?(run)
      pending(run)
      sleep(pause)
      pause = [pause * 1.5, 5].min
      answer = ask(uri)
      run = runs_in(answer).first || lose(run['id'], status_and_reason(answer)) if answer
    end
    output.tell_rest(output_of(run, uri))
    run
  end

  # @return [Answer, nil] nil when the listener is away or about to go; the run goes on when it is back
  def ask(uri)
    answer = exchange('GET', uri, headers('GET', nil).merge('accept' => 'application/json'))
    answer unless answer.code == 503
  rescue PuppetX::Webhook::Temporary
    nil
  end

  # An answer that was waited for brings the end of the output along, one about a run says where all of it is.
  def output_of(run, uri)
    kept = run['output'].is_a?(Hash) ? run['output'] : {}
    from = kept['from']
    missing = "[the first #{from} bytes are left out; the listener has them]\n" if from.is_a?(Integer) && from.positive?
    return "#{missing}#{kept['text']}" if kept['text'].is_a?(String)

    answer = exchange('GET', uri.merge("#{uri.path}/output"), headers('GET', nil).merge('accept' => 'text/plain'))
    answer.code == 200 ? answer.text : "[its output cannot be read: #{status_and_reason(answer)}]"
  end

  def lose(run_id, why)
    raise Puppet::Error, "#{@sending}: run #{run_id} was accepted but cannot be followed: #{why}"
  end

  def status_and_reason(answer)
    [status(answer), reason(answer)].compact.join(': ')
  end

  # `run 01J… failed: step 1 (command) exited with 3`
  def verdict(run)
    why = run.values_at('message', 'reason').find { |text| text.is_a?(String) && !text.empty? }
    why = nil if run['state'] == 'succeeded'
    ["run #{run['id']} #{said(run['state'])}", why && said(why)].compact.join(': ')
  end

  # ---- what is printed and kept ----------------------------------------------------------------------------------------

  def output
    keep = @quiet || resource[:save_to] ? max_kept : 0
    first = max_lines - max_last_lines
    @output ||= PuppetX::Webhook::Printed.new(secrets, first: first, last: max_last_lines, keep: keep) do |line|
      log(line) unless @quiet
    end
  end

  def log(line)
    resource.send_log(resource[:loglevel], line)
  end

  # What the call brought: what the run printed, or else the body.
  def content(answer)
    kept = @output || answer
    raise PuppetX::Webhook::Unkept, "more than #{max_kept} bytes came, which are not kept" if kept.cut

    @output ? @output.text : answer.bytes
  end

  def saved_file
    saved = plaintext(:save_to)
    saved = { 'path' => saved } unless saved.is_a?(Hash)
    [saved['path'], Integer(saved.fetch('mode', '0600').to_s, 8)]
  end

  # Before anything is sent, since a call may not be made again for an answer that has been lost.
  def ready_to_save
    path, = saved_file
    return if path.nil? || File.directory?(File.dirname(path))

    raise Puppet::Error, "save_to: there is no directory #{File.dirname(path)}, so nothing was sent"
  end

  # @return [String, nil] a few words for the report
  def save(answer)
    path, mode = saved_file
    return if path.nil?

    bytes = content(answer)
    Puppet::FileSystem.replace_file(path, mode) do |file|
      file.binmode
      file.write(bytes)
    end
    "saved to #{path}"
  rescue SystemCallError => e
    raise PuppetX::Webhook::Unkept, "it cannot be saved: #{e.message}"
  end

  def successes
    @successes ||= PuppetX::Webhook::Successes.new
  end

  # ---- masking ---------------------------------------------------------------------------------------------------------

  def mask(text)
    secrets.mask(text)
  end

  def said(text)
    secrets.said(text)
  end

  # Some values are secret whether or not they are said to be.
  def secrets
    @secrets ||= PuppetX::Webhook::Secrets.new.tap do |secrets|
      resource.class.parameters.each do |name|
        next if resource[name].nil?

        whole = resource.parameter(name).sensitive || %i[password token].include?(name)
        secrets.add(given(name), whole: whole, opaque: %i[data route url].include?(name))
      end
      secrets.add(hmac['secret'], whole: true) if given(:hmac)
      secrets.add(basic_credentials, whole: true) if given(:user)
      secrets.add(url_parts, whole: true) if given(:url).is_a?(sensitive) || resource.parameter(:url)&.sensitive
    end
  end

  # Messages name parts of a URL too: the host in what Puppet's client says, the path in what a listener does.
  def url_parts
    [target.host, target.path, target.query, target.request_uri].compact - ['/']
  end

  def sensitive
    Puppet::Pops::Types::PSensitiveType::Sensitive
  end
end

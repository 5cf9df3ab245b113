# frozen_string_literal: true

require 'json'
require 'socket'
require 'tmpdir'

RSpec.describe Puppet::Type.type(:http).provider(:puppet) do
  # A server that gives each connection the next of the answers, byte for byte, and keeps what it was sent.
  def serve(*answers)
    server = TCPServer.new('127.0.0.1', 0)
    heard = []
    thread = Thread.new do
      answers.each do |answer|
        client = server.accept
        head = client.gets("\r\n\r\n")
        heard << (head + client.read(head[/^content-length: (\d+)/i, 1].to_i))
        answer.respond_to?(:call) ? answer.call(client) : client.write(answer)
        client.close
      end
    end
    @servers = [*@servers, [server, thread]]
    [server.addr[1], heard]
  end

  after do
    (@servers || []).each do |server, thread|
      thread.kill.join
      server.close
    end
  end

  def answer(status, body = '', headers = {})
    lines = { 'Content-Length' => body.bytesize, **headers }.map { |name, value| "#{name}: #{value}\r\n" }
    "HTTP/1.1 #{status}\r\n#{lines.join}\r\n#{body}"
  end

  def problem(status, document)
    answer(status, JSON.generate(document), 'Content-Type' => 'application/problem+json')
  end

  def http(attributes)
    Puppet::Type.type(:http).new({ title: 'kick', fqdn: '127.0.0.1' }.merge(attributes).compact)
  end

  def deliver(attributes)
    call = http(attributes)
    call.provider.deliver(call[:ensure])
  end

  def failure(attributes)
    deliver(attributes)
    nil
  rescue Puppet::Error => e
    e.message
  end

  def sensitive(value)
    Puppet::Pops::Types::PSensitiveType::Sensitive.new(value)
  end

  # The request line, the headers by lower-case name, and the body of what a server has heard.
  def parse(request)
    head, body = request.split("\r\n\r\n", 2)
    line, *fields = head.split("\r\n")
    [line, fields.to_h { |field| field.split(': ', 2) }.transform_keys(&:downcase), body]
  end

  before { %w[http_proxy HTTP_PROXY].each { |name| stub_const('ENV', ENV.to_h.reject { |key| key == name }) } }

  describe 'what is sent' do
    def sent(attributes)
      port, heard = serve(answer('200 OK'))
      deliver(attributes.merge(port: port))
      parse(heard.first)
    end

    it 'PW-T1: gets the route from the host' do
      line, headers, body = sent(ensure: :get)
      expect(line).to eq('GET /kick HTTP/1.1')
      expect(headers['host']).to match(/\A127\.0\.0\.1:\d+\z/)
      expect(headers).to include('user-agent' => /Puppet/, 'x-puppet-version' => Puppet.version)
      expect(headers).not_to include('content-type', 'content-length')
      expect(body).to eq('')
    end

    it 'PW-T2: posts a hash as JSON' do
      line, headers, body = sent(data: { 'my_key' => 'some_value' })
      expect(line).to eq('POST /kick HTTP/1.1')
      expect(headers).to include('content-type' => 'application/json', 'content-length' => '23')
      expect(body).to eq('{"my_key":"some_value"}')
    end

    it 'PW-T8: keeps the types of what is nested in data' do
      data = { 'int' => 3, 'float' => 2.5, 'yes' => true, 'no' => false, 'undef' => nil, 'list' => [1, { 'ü' => 'ö' }] }
      _, _, body = sent(data: data)
      expect(JSON.parse(body)).to eq(data)
    end

    it 'sends a string as it is, and lists as JSON' do
      _, headers, body = sent(data: "a=1\n", header: 'text/plain')
      expect([headers['content-type'], body]).to eq(['text/plain', "a=1\n"])
      expect(sent(data: [1, 'a']).last).to eq('[1,"a"]')
    end

    it 'PW-T13: sends no body and no content type without data' do
      line, headers, body = sent(ensure: :post)
      expect(line).to eq('POST /kick HTTP/1.1')
      expect(headers).to include('content-length' => '0')
      expect(headers).not_to include('content-type')
      expect(body).to eq('')
    end

    it 'PW-T14: keeps the query string of a POST' do
      expect(sent(route: '/deploy?x=1&y=a%20b', data: {}).first).to eq('POST /deploy?x=1&y=a%20b HTTP/1.1')
    end

    it 'percent-encodes what a URL cannot hold' do
      expect(sent(route: 'grüße/a b?q=[1]#x').first).to eq('GET /gr%C3%BC%C3%9Fe/a%20b?q=%5B1%5D%23x HTTP/1.1')
    end

    it 'PW-T7: knows the other methods' do
      expect(%i[put patch delete].map { |method| sent(ensure: method).first[/\w+/] }).to eq(%w[PUT PATCH DELETE])
      port, heard = serve("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
      deliver(ensure: :head, port: port)
      expect(heard.first).to start_with('HEAD /kick HTTP/1.1')
    end

    it 'PW-T6: sends headers, which win over its own' do
      _, headers, = sent(data: '<a/>', header: { 'content-TYPE' => 'text/xml', 'X-Number' => 3, 'Accept' => 'text/plain' })
      expect(headers).to include('content-type' => 'text/xml', 'x-number' => '3', 'accept' => 'text/plain')
    end

    it 'adds async=false to whatever query there is when it waits' do
      expect(sent(wait: true).first).to eq('GET /kick?async=false HTTP/1.1')
      expect(sent(wait: true, route: 'kick?x=1').first).to eq('GET /kick?x=1&async=false HTTP/1.1')
      expect(sent(wait: true, route: 'kick?async=false&x=1').first).to eq('GET /kick?async=false&x=1 HTTP/1.1')
    end

    it 'PW-T15: unwraps Sensitive at any depth, and values that Puppet resolves late' do
      late = Puppet::Pops::Evaluator::DeferredValue.new(-> { sensitive('late') })
      _, headers, body = sent(data: { 'a' => [sensitive('b')], 'c' => sensitive('d' => sensitive(5)), 'e' => late },
                              header: { 'X-Token' => sensitive('t') })
      expect(JSON.parse(body)).to eq('a' => ['b'], 'c' => { 'd' => 5 }, 'e' => 'late')
      expect(headers).to include('x-token' => 't')
    end

    it 'sends a hash as a form where the content type is that of forms' do
      data = { 'a' => 'ä b', 'list' => [1, true], 'none' => nil }
      _, headers, body = sent(data: data, header: 'application/x-www-form-urlencoded; charset=UTF-8')
      expect([headers['content-type'], body])
        .to eq(['application/x-www-form-urlencoded; charset=UTF-8', 'a=%C3%A4+b&list=1&list=true'])
      expect(failure(data: { 'a' => { 'b' => 'secret' } }, header: 'application/x-www-form-urlencoded'))
        .to eq('data: a form is a flat hash of texts, numbers and lists of them')
    end

    it 'calls a whole URL' do
      port, heard = serve(answer('200 OK'), answer('200 OK'))
      expect(deliver(fqdn: nil, url: "http://127.0.0.1:#{port}/grüße?x=1"))
        .to eq("sent GET http://127.0.0.1:#{port}/gr%C3%BC%C3%9Fe?x=1: 200 OK")
      deliver(fqdn: nil, url: "http://127.0.0.1:#{port}", wait: true)
      expect(heard.map { |request| request.lines.first.chomp })
        .to eq(['GET /gr%C3%BC%C3%9Fe?x=1 HTTP/1.1', 'GET /?async=false HTTP/1.1'])
    end

    it 'sends user and password, or a token' do
      expect(sent(user: 'mé', password: sensitive('p:w'))[1]['authorization']).to eq("Basic #{['mé:p:w'].pack('m0')}")
      expect(sent(token: sensitive('t0ken'))[1]['authorization']).to eq('Bearer t0ken')
    end

    it 'signs as GitHub does, over the bytes of the body' do
      # The example of GitHub's documentation.
      _, headers, = sent(hmac: sensitive("It's a Secret to Everybody"), data: 'Hello, World!', header: 'text/plain')
      expect(headers['x-hub-signature-256'])
        .to eq('sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17')
      _, headers, = sent(hmac: { 'secret' => 'a', 'header' => 'X-Signature' })
      expect(headers['x-signature']).to eq("sha256=#{OpenSSL::HMAC.hexdigest('SHA256', 'a', '')}")
      expect(headers.keys).not_to include('x-hub-signature-256')
    end

    it 'signs as the Standard Webhooks have it, anew for each try' do
      port, heard = serve(answer('503 Busy'), answer('200 OK'))
      allow(Time).to(receive(:now).and_wrap_original { |now| now.call + (heard.size * 100) })
      deliver(port: port, data: { 'ü' => 1 }, tries: 2, try_sleep: 0,
              hmac: { 'style' => 'standard-webhooks', 'secret' => sensitive("whsec_#{['key'].pack('m0')}") })
      requests = heard.map { |request| parse(request) }
      requests.each do |_, headers, body|
        signed = headers.values_at('webhook-id', 'webhook-timestamp').push(body.b).join('.')
        expect(headers['webhook-signature']).to eq("v1,#{[OpenSSL::HMAC.digest('SHA256', 'key', signed)].pack('m0')}")
      end
      ids, times = %w[webhook-id webhook-timestamp].map { |name| requests.map { |_, headers,| headers[name] } }
      expect([ids.uniq.size, times.uniq.size]).to eq([1, 2])
    end

    it 'refuses data that JSON cannot hold, without showing it' do
      expect([failure(data: { 'a' => "secret\xff" }), failure(data: { 'a' => Float::NAN })])
        .to all(eq('data cannot be written down: it holds text that is not UTF-8, or a number that is not finite'))
    end
  end

  describe 'what comes of it' do
    it 'says what was sent and what was answered' do
      port, = serve(answer('204 No Content'))
      expect(deliver(port: port)).to eq("sent GET http://127.0.0.1:#{port}/kick: 204 No Content")
    end

    it 'names the runs that a listener has accepted' do
      id = '01JD00000000000000000000AA'
      port, = serve(answer('202 Accepted', JSON.generate('runs' => [{ 'id' => id, 'route' => 'kick', 'state' => 'queued' }])))
      expect(deliver(port: port)).to eq("sent GET http://127.0.0.1:#{port}/kick: 202 Accepted, run #{id} queued")
    end

    it 'says why a listener has ignored the call' do
      port, = serve(answer('200 OK', '{"ignored":["the branch is scratch"]}'))
      expect(deliver(port: port)).to end_with('200 OK, ignored: the branch is scratch')
    end

    it 'PW-B3: fails on 4xx and 5xx, with the detail or title of a problem document' do
      port, = serve(problem('422 Unprocessable Entity', 'title' => 'Bad', 'detail' => 'parameter "role" is missing'),
                    problem('404 Not Found', 'title' => 'no such route', 'detail' => ''))
      expect(failure(port: port)).to eq("GET http://127.0.0.1:#{port}/kick: 422 Unprocessable Entity instead of 200-299: " \
                                        'parameter "role" is missing')
      expect(failure(port: port)).to end_with('404 Not Found instead of 200-299: no such route')
    end

    it 'gives the first line of a text as the reason, cut, without colours and without a page of HTML' do
      port, = serve(answer('500 Oops', "\n \e[31mred\e[0m alert\nmore"),
                    answer('500 Oops', 'x' * 100_000),
                    answer('500 Oops', '<html>', 'Content-Type' => 'text/html'),
                    answer('500 Oops'))
      reasons = Array.new(4) { failure(port: port)[/instead of 200-299(.*)\z/m, 1] }
      expect(reasons).to eq([': red alert', ": #{'x' * 500}…", '', ''])
    end

    it 'takes the statuses in returns and no others' do
      port, = serve(answer('404 Not Found'), answer('200 OK'), answer('303 See Other', '', 'Location' => '/x'))
      expect(deliver(port: port, returns: [200, '404-410'])).to end_with('404 Not Found')
      expect(failure(port: port, returns: [201, '404-410'])).to end_with('200 OK instead of 201, 404-410')
      expect(failure(port: port)).to end_with('303 See Other instead of 200-299')
    end

    it 'PW-T11: fails when nobody listens, with the address' do
      server = TCPServer.new('127.0.0.1', 0)
      port = server.addr[1]
      server.close
      expect(failure(port: port)).to match(%r{\AGET http://127\.0\.0\.1:#{port}/kick: failed after .*: .*Connection refused})
    end

    it 'fails when the connection breaks off' do
      port, = serve('', 'HTTP/1.1 200')
      expect([failure(port: port), failure(port: port)]).to all(match(/interrupted after .* seconds/))
    end

    it 'fails when no answer comes in time, also when bytes trickle in' do
      port, = serve(->(_client) { sleep }, lambda { |client|
        client.write("HTTP/1.1 200 OK\r\n")
        loop do
          client.write("X: y\r\n")
          sleep 0.02
        end
      })
      port2, = serve(lambda { |client|
        client.write("HTTP/1.1 200 OK\r\nX: ")
        loop { client.write('y') && sleep(0.02) }
      })
      expect(failure(port: port, timeout: 0.2)).to end_with('no answer within 0.2 seconds (timeout)')
      expect(failure(port: port2, timeout: 0.2)).to end_with('no answer within 0.2 seconds (timeout)')
    end

    it 'does not sleep on Retry-After but says so' do
      port, = serve(answer('503 Service Unavailable', 'stopping', 'Retry-After' => '120'),
                    answer('429 Too Many Requests', '', 'Retry-After' => 'Wed, 21 Oct 2026 07:28:00 GMT'))
      expect(failure(port: port)).to end_with('instead of 200-299: stopping: it asks to try again after 120 seconds')
      expect(failure(port: port)).to end_with('it asks to try again after Wed, 21 Oct 2026 07:28:00 GMT')
    end

    it 'reads no more of an answer than it can use' do
      heard_enough = Queue.new
      endless = lambda do |client|
        client.write("HTTP/1.1 200 OK\r\n\r\n")
        loop { client.write('x' * 100_000) }
      rescue SystemCallError
        heard_enough << true
      end
      call = http(port: serve(endless).first)
      allow(call.provider).to receive(:max_kept).and_return(200_000)
      expect(call.provider.deliver(:get)).to end_with('200 OK')
      expect(heard_enough.pop).to be(true)
    end

    it 'leaves no connection of its own in the pool of Puppet' do
      port, = serve(answer('200 OK'))
      deliver(port: port)
      expect(Puppet.runtime[:http].pool.pool.values.flatten).to eq([])
    end
  end

  describe 'tries' do
    it 'makes the same call again after what may pass, with the same Idempotency-Key' do
      port, heard = serve(answer('503 Busy'), '', answer('409 Conflict'), answer('202 Accepted'))
      call = http(port: port, tries: 4, try_sleep: 0, data: { 'a' => 1 })
      logged = []
      allow(call).to receive(:send_log) { |_, line| logged << line }
      expect(call.provider.deliver(:post)).to end_with('202 Accepted')
      expect(logged.size).to eq(3)
      expect(logged.first).to end_with('/kick: 503 Service Unavailable instead of 200-299; try 1 of 4, the next in 0 seconds')
      keys = heard.map { |request| parse(request)[1]['idempotency-key'] }
      expect([keys.size, keys.uniq.size, keys.first]).to match([4, 1, /\A[0-9a-f-]{36}\z/])
      expect(heard.map { |request| parse(request).last }.uniq).to eq(['{"a":1}'])
    end

    it 'takes a new key for the next call' do
      port, heard = serve(answer('200 OK'), answer('200 OK'))
      call = http(port: port)
      2.times { call.provider.deliver(:get) }
      expect(heard.map { |request| parse(request)[1]['idempotency-key'] }.uniq.size).to eq(2)
    end

    it 'does not make a call again that was refused' do
      port, heard = serve(answer('422 Unprocessable Entity'), answer('200 OK'))
      expect(failure(port: port, tries: 5, try_sleep: 0)).to end_with('422 Unprocessable Entity instead of 200-299')
      expect(heard.size).to eq(1)
    end

    it 'limits the time of each try, and says how many there were' do
      port, = serve(->(client) { client.read }, ->(client) { client.read }, answer('200 OK'))
      expect(failure(port: port, tries: 2, try_sleep: 0, timeout: 0.2))
        .to end_with('no answer within 0.2 seconds (timeout) (after 2 tries)')
      expect(deliver(port: port)).to end_with('200 OK')
    end

    it 'waits as long as the other side asks for, but no longer than a minute' do
      port, = serve(answer('429 Slow down', '', 'Retry-After' => '7'), answer('503 Busy', '', 'Retry-After' => '1800'),
                    answer('503 Busy', '', 'Retry-After' => 'tomorrow'), answer('200 OK'))
      call = http(port: port, tries: 4, try_sleep: 2)
      pauses = []
      allow(call.provider).to receive(:sleep) { |seconds| pauses << seconds }
      allow(call).to receive(:send_log)
      call.provider.deliver(:get)
      expect(pauses).to eq([7, 60, 2])
    end
  end

  describe 'probes' do
    def needless(attributes)
      call = http(attributes)
      call.provider.needless(call[:ensure])
    rescue Puppet::Error => e
      e
    end

    def state(document)
      answer('200 OK', JSON.generate(document))
    end

    it 'PW-B4: sends unless the answer is so' do
      port, heard = serve(answer('200 OK'), answer('404 Not Found'))
      attributes = { port: port, ensure: :post, data: { 'a' => 1 }, unless: 'teams/billing' }
      expect(needless(attributes)).to eq("unless: GET http://127.0.0.1:#{port}/teams/billing says so")
      expect(needless(attributes)).to be_nil
      line, headers, body = parse(heard.first)
      expect([line, headers.keys & %w[content-type idempotency-key], body]).to eq(['GET /teams/billing HTTP/1.1', [], ''])
    end

    it 'sends only if all answers are so' do
      port, heard = serve(answer('200 OK'), answer('404 Not Found'), answer('200 OK'), answer('200 OK'))
      attributes = { port: port, onlyif: ['a', { 'route' => 'b', 'method' => 'head' }] }
      expect(needless(attributes)).to eq("onlyif: HEAD http://127.0.0.1:#{port}/b does not say so")
      expect(needless(attributes)).to be_nil
      expect(heard.map { |request| request[/\A\w+ \S+/] }).to eq(['GET /a', 'HEAD /b', 'GET /a', 'HEAD /b'])
    end

    it 'compares status, JSON and body' do
      document = { 'state' => { 'ready' => true }, 'nodes' => [{ 'name' => 'db1', 'size' => 3 }] }
      {
        { 'json' => { 'state.ready' => true, 'nodes.0.name' => 'db1', 'nodes.0.size' => 3 } } => true,
        { 'json' => { 'state' => { 'ready' => true } } } => true,
        { 'json' => { 'state.ready' => true, 'nodes.0.size' => '3' } } => false,
        { 'json' => { 'nodes.1.name' => nil, 'no.such.thing' => nil, 'nodes.x' => nil } } => true,
        { 'json' => { 'nodes.0.name.x' => 'db1' } } => false,
        { 'body' => '"name": ?"db\d"' } => true,
        { 'body' => 'db2' } => false,
        { 'body' => 'db1', 'json' => { 'state.ready' => sensitive(true) } } => true,
        { 'status' => [202, '204-299'] } => false,
        { 'status' => '200', 'body' => 'ready' } => true
      }.each do |probe, met|
        port, = serve(state(document))
        expect([probe, needless(port: port, unless: probe).nil?]).to eq([probe, !met])
      end
    end

    it 'takes an answer that is no JSON for one without values' do
      port, = serve(answer('200 OK', 'ready'))
      expect(needless(port: port, onlyif: { 'json' => { 'ready' => true } })).to match(/does not say so/)
    end

    it 'fails rather than guess when there is no answer, or one that says nothing about it' do
      port, = serve(answer('401 Unauthorized'), problem('500 Oops', 'detail' => 'the database is away'), answer('500 Oops'))
      expect(needless(port: port, unless: 'a').message)
        .to eq("unless: GET http://127.0.0.1:#{port}/a: 401 Unauthorized, which leaves open whether to send")
      expect(needless(port: port, onlyif: 'a').message).to match(/500 .*: the database is away, which leaves open/)
      expect(needless(port: port, unless: { 'status' => 500 })).to end_with('says so')
      expect(needless(port: 1, unless: 'a').message).to match(/Connection refused/)
    end

    it 'makes the tries of the resource' do
      port, = serve(answer('503 Busy'), answer('404 Not Found'))
      call = http(port: port, unless: 'a', tries: 2, try_sleep: 0)
      allow(call).to receive(:send_log)
      expect(call.provider.needless(:get)).to be_nil
    end

    it 'tells credentials to the host of the resource only' do
      other, heard = serve(answer('200 OK'))
      port, own = serve(answer('200 OK'))
      attributes = { port: port, token: 't0ken', header: { 'X-Key' => 'k' } }
      needless(attributes.merge(unless: "http://127.0.0.1:#{other}/"))
      needless(attributes.merge(unless: { 'url' => "http://127.0.0.1:#{port}/" }))
      expect(parse(heard.first)[1].keys & %w[authorization x-key]).to eq([])
      expect(parse(own.first)[1]).to include('authorization' => 'Bearer t0ken', 'x-key' => 'k')
    end
  end

  describe 'once' do
    let(:dir) { Dir.mktmpdir }
    let(:file) { File.join(dir, 'webhook_http.json') }

    before { state_in(dir) }

    after { FileUtils.remove_entry(dir) }

    def state_in(dir)
      allow(Puppet).to receive(:[]).and_call_original
      allow(Puppet).to receive(:[]).with(:statedir).and_return(dir)
    end

    def due?(attributes)
      call = http({ once: true, ensure: :post, data: { 'pin' => sensitive('4711') } }.merge(attributes))
      call.provider.needless(call[:ensure]).nil?
    end

    def send_once(attributes)
      deliver({ once: true, ensure: :post, data: { 'pin' => sensitive('4711') } }.merge(attributes))
    end

    it 'sends what was not sent with success under this title' do
      port, = serve(answer('422 No'), answer('200 OK'))
      expect { send_once(port: port) }.to raise_error(Puppet::Error)
      expect(due?(port: port)).to be(true)
      send_once(port: port)
      expect(due?(port: port)).to be(false)
      expect(due?(port: port, token: 'new', header: { 'X-A' => 'b' }, wait: true)).to be(false)
      [{ data: { 'pin' => sensitive('4712') } }, { ensure: :put }, { route: 'other' }, { title: 'other' }, { port: 1 },
       { header: 'text/json' }].each { |change| expect([change, due?({ port: port }.merge(change))]).to eq([change, true]) }
    end

    it 'keeps a private file that tells nothing of what was sent' do
      port, = serve(answer('200 OK'), answer('200 OK'))
      send_once(port: port)
      send_once(port: port, title: 'other')
      expect(File.stat(file).mode & 0o7777).to eq(0o600)
      known = JSON.parse(File.read(file))
      expect(known['sent'].keys).to eq(%w[kick other])
      expect(File.read(file)).not_to include('4711')
      plain = OpenSSL::Digest.hexdigest('SHA256', '{"pin":"4711"}')
      expect(known['sent']['kick']['fingerprint']).to match(/\A\h{64}\z/).and(satisfy { |text| text != plain })
      expect(Dir.children(dir)).to match_array(%w[webhook_http.json webhook_http.json.lock])
    end

    it 'sends again, with a warning, when the file is not what was written' do
      port, = serve(*Array.new(3) { answer('200 OK') })
      warnings = []
      allow(Puppet).to receive(:warning) { |text| warnings << text }
      ['{', '[]', '{"key":"x","sent":{}}'].each do |text|
        File.write(file, text)
        expect(due?(port: port)).to be(true)
        expect(warnings.pop).to match(/\A#{file}: it is not .*; requests with once are sent again/)
        send_once(port: port)
        expect(due?(port: port)).to be(false)
      end
    end

    it 'fails when the success cannot be noted' do
      port, = serve(answer('200 OK'))
      state_in('/nowhere')
      expect { send_once(port: port) }.to raise_error(Puppet::Error, /sent POST .*: 200 OK: it could not be noted for once/)
    end
  end

  describe 'save_to' do
    around { |example| Dir.mktmpdir { |dir| Dir.chdir(dir) { example.run } } }

    let(:path) { File.join(Dir.pwd, 'answer') }

    it 'keeps the bytes of a success, and of nothing else' do
      port, = serve(answer('200 OK', "\xff\0\n"), answer('404 Not Found', 'no'))
      expect(deliver(port: port, save_to: path)).to end_with("200 OK, saved to #{path}")
      expect(failure(port: port, save_to: path)).to match(/404/)
      expect([File.binread(path), File.stat(path).mode & 0o7777]).to eq(["\xff\0\n".b, 0o600])
    end

    it 'replaces the file as a whole, with the mode that is said' do
      File.write(path, 'old')
      old = File.open(path)
      port, = serve(answer('200 OK', 'new'))
      deliver(port: port, save_to: { 'path' => path, 'mode' => '0644' })
      expect([File.read(path), old.read, File.stat(path).mode & 0o7777]).to eq(['new', 'old', 0o644])
      expect(Dir.children('.')).to eq(['answer'])
    end

    it 'sends nothing when there is no directory for it' do
      port, heard = serve(answer('200 OK'))
      expect(failure(port: port, save_to: "#{path}/x")).to eq("save_to: there is no directory #{path}, so nothing was sent")
      expect(heard).to eq([])
    end

    it 'fails when the answer cannot be kept' do
      port, = serve(answer('200 OK', 'long'), answer('200 OK'))
      call = http(port: port, save_to: path)
      allow(call.provider).to receive(:max_kept).and_return(2)
      expect { call.provider.deliver(:get) }.to raise_error(Puppet::Error, /sent GET .*: more than 2 bytes came/)
      Dir.mkdir(path)
      expect(failure(port: port, save_to: path)).to match(/sent GET .*: 200 OK: it cannot be saved: .*directory/)
    end

    it 'keeps what the run printed, for who waits' do
      run = { 'id' => '01JD00000000000000000000AA', 'state' => 'succeeded', 'output' => { 'text' => "one\ntwo\n" } }
      port, = serve(answer('200 OK', JSON.generate(run)))
      deliver(port: port, wait: true, save_to: path)
      expect(File.read(path)).to eq("one\ntwo\n")
    end
  end

  describe 'redirects' do
    it 'follows with the same method, headers and body' do
      second, heard = serve(answer('200 OK'), answer('200 OK'))
      first, = serve(answer('307 Temporary Redirect', '', 'Location' => "http://127.0.0.1:#{second}/there?x=1"),
                     answer('301 Moved Permanently', '', 'Location' => "http://127.0.0.1:#{second}/there"))
      2.times { expect(deliver(port: first, data: { 'a' => 1 }, header: { 'X-Token' => 't' })).to end_with('200 OK') }
      line, headers, body = parse(heard.first)
      expect([line, headers['x-token'], body]).to eq(['POST /there?x=1 HTTP/1.1', 't', '{"a":1}'])
      expect(heard.last).to start_with('POST /there HTTP/1.1')
    end

    it 'PW-T12: fails when it ends in an error, in a circle or nowhere' do
      port, = serve(answer('302 Found', '', 'Location' => '/gone'), problem('410 Gone', 'detail' => 'it is gone'))
      expect(failure(port: port)).to end_with('410 Gone instead of 200-299: it is gone')
      port, = serve(*Array.new(20) { answer('302 Found', '', 'Location' => '/kick') })
      expect(failure(port: port)).to end_with('more than 20 redirects')
      port, = serve(answer('302 Found'), answer('302 Found', '', 'Location' => 'http://[/'))
      expect([failure(port: port), failure(port: port)]).to all(end_with('it redirects without a usable Location'))
    end

    it 'does not follow to another host or another protocol, since data and headers are not meant for it' do
      %w[http://localhost/kick ftp://127.0.0.1/kick].each do |target|
        port, = serve(answer('302 Found', '', 'Location' => target))
        expect(failure(port: port)).to end_with("it redirects to #{target}, which leaves http://127.0.0.1 and is not followed")
      end
    end

    it 'stays where a redirect is what returns asks for' do
      port, = serve(answer('302 Found', '', 'Location' => 'http://localhost/'))
      expect(deliver(port: port, returns: 302)).to end_with('302 Found')
    end
  end

  describe 'a run that is waited for' do
    let(:id) { '01JD00000000000000000000AA' }
    let(:logged) { [] }

    def run(fields)
      JSON.generate({ 'id' => id, 'route' => 'kick', 'state' => 'succeeded', 'output' => { 'text' => '' } }.merge(fields))
    end

    def wait(port, attributes = {})
      call = http({ port: port, wait: true }.merge(attributes))
      allow(call).to receive(:send_log) { |level, line| logged << [level, line] }
      call.provider.deliver(call[:ensure])
    rescue Puppet::Error => e
      e.message
    end

    it 'logs its output line by line' do
      port, = serve(answer('200 OK', run('output' => { 'text' => "one\n\n\e[1mtwo\e[0m\r\nthree" })))
      expect(wait(port)).to end_with("200 OK, run #{id} succeeded")
      expect(logged).to eq([[:notice, 'one'], [:notice, ''], [:notice, 'two'], [:notice, 'three']])
    end

    it 'logs at the loglevel of the resource' do
      port, = serve(answer('200 OK', run('output' => { 'text' => 'one' })))
      wait(port, loglevel: :debug)
      expect(logged).to eq([[:debug, 'one']])
    end

    it 'logs the beginning and the end of a long output' do
      port, = serve(answer('200 OK', run('output' => { 'text' => (1..2000).map { |n| "#{n}\n" }.join })))
      wait(port)
      lines = logged.map(&:last)
      expect([lines.size, lines[899], lines[900], lines[901], lines.last])
        .to eq([1001, '900', '[1000 lines left out; the listener has them all]', '1901', '2000'])
    end

    it 'fails as the run fails, whatever the status' do
      failed = run('state' => 'failed', 'message' => 'step 1 (command) exited with 3', 'output' => { 'text' => 'oh' })
      port, = serve(answer('500 Internal Server Error', failed), answer('200 OK', failed))
      2.times { expect(wait(port)).to end_with("/kick?async=false: run #{id} failed: step 1 (command) exited with 3") }
      expect(logged.map(&:last)).to eq(%w[oh oh])
    end

    it 'follows the run when the listener stops waiting first' do
      accepted = JSON.generate('runs' => [{ 'id' => id, 'route' => 'kick', 'state' => 'running', 'url' => "/-/runs/#{id}" }])
      port, heard = serve(answer('202 Accepted', accepted), answer('200 OK', run('state' => 'running')),
                          answer('200 OK', run('output' => { 'size' => 4 })), answer('200 OK', 'done'))
      sent = wait(port, ensure: :post, data: { 'a' => 1 }, header: { 'X-Token' => 't' })
      expect(sent).to end_with("202 Accepted, run #{id} succeeded")
      line, headers, body = parse(heard[2])
      expect([line, headers['x-token'], body]).to eq(["GET /-/runs/#{id} HTTP/1.1", 't', ''])
      line, headers, = parse(heard[3])
      expect([line, headers['x-token'], headers['accept']]).to eq(["GET /-/runs/#{id}/output HTTP/1.1", 't', 'text/plain'])
      expect(logged.map(&:last)).to eq(['done'])
    end

    it 'takes the run from Location where the route words its own answer, and outlasts a restart of the listener' do
      port, = serve(answer('202 Accepted', 'Thank you', 'Location' => "/-/runs/#{id}"), '', answer('503 Service Unavailable'),
                    answer('200 OK', run('output' => { 'text' => 'done' })))
      expect(wait(port)).to end_with("202 Accepted, run #{id} succeeded")
      expect(logged.map(&:last)).to eq(['done'])
    end

    it 'says when the beginning of the output is not in the answer' do
      port, = serve(answer('200 OK', run('output' => { 'text' => "end\n", 'from' => 70_000 })))
      wait(port)
      expect(logged.map(&:last)).to eq(['[the first 70000 bytes are left out; the listener has them]', 'end'])
    end

    it 'does not fail for want of the output of a run that succeeded' do
      accepted = answer('202 Accepted', JSON.generate('runs' => [{ 'id' => id, 'state' => 'queued' }]))
      port, = serve(accepted, answer('200 OK', run('output' => { 'from' => {} })), answer('404 Not Found', 'gone'))
      expect(wait(port)).to end_with("run #{id} succeeded")
      expect(logged.map(&:last)).to eq(['[its output cannot be read: 404 Not Found: gone]'])
    end

    def stream(text, run_id = id)
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nLocation: /-/runs/#{run_id}\r\n" \
        "Transfer-Encoding: chunked\r\n\r\n#{text.bytesize.to_s(16)}\r\n#{text}\r\n"
    end

    def line(offset, text)
      "event: output\nid: #{offset}\ndata: #{text}\n\n"
    end

    def outcome(fields = {})
      "event: run\nid: 9\ndata: #{run(fields)}\n\n"
    end

    it 'logs what is streamed while the run goes on' do
      logged_before_the_end = nil
      port, = serve(lambda { |client|
        client.write(stream(":\n\n#{line(4, 'one')}event: output\ndata: two\ndata: three\n\n#{line(9, '')}"))
        sleep 0.01 until logged.size == 4
        logged_before_the_end = logged.map(&:last)
        client.write("#{outcome.bytesize.to_s(16)}\r\n#{outcome}\r\n0\r\n\r\n")
      })
      expect(wait(port)).to end_with("200 OK, run #{id} succeeded")
      expect(logged_before_the_end).to eq(['one', 'two', 'three', ''])
    end

    it 'fails as the streamed run fails' do
      port, = serve("#{stream(outcome('state' => 'failed', 'message' => 'step 1 (command) exited with 3'))}0\r\n\r\n")
      expect(wait(port)).to end_with("run #{id} failed: step 1 (command) exited with 3")
    end

    it 'makes the same call again when the stream breaks off, and tells no line twice' do
      port, heard = serve(stream(line(4, 'one') + line(8, 'two')), answer('503 Service Unavailable'), '',
                          "#{stream(line(4, 'one') + outcome('state' => 'queued'))}0\r\n\r\n",
                          "#{stream(line(4, 'one') + line(8, 'owt') + line(12, 'end') + outcome)}0\r\n\r\n")
      expect(wait(port, ensure: :post, data: { 'a' => 1 })).to end_with("200 OK, run #{id} succeeded")
      expect(logged.map(&:last)).to eq(%w[one two owt end])
      requests = heard.map { |request| parse(request) }
      expect(requests.map { |request| [request[0], request[1]['idempotency-key'], request[2]] }.uniq.size).to eq(1)
    end

    it 'fails when the listener does not know the run again' do
      port, = serve(stream(''), answer('409 Conflict', 'it is not kept any more'))
      expect(wait(port, tries: 5))
        .to end_with("run #{id} was accepted but cannot be followed: 409 Conflict: it is not kept any more")
      port, = serve(stream(''), stream('', '01JD00000000000000000000BB'))
      expect(wait(port)).to end_with("run #{id}: the listener took the same call for a new one, run 01JD00000000000000000000BB")
    end

    it 'does not send again for tries once there is a run' do
      port, heard = serve("#{stream(outcome('state' => 'failed', 'reason' => 'exit'))}0\r\n\r\n", answer('200 OK'))
      expect(wait(port, tries: 3, try_sleep: 0)).to end_with("run #{id} failed: exit")
      expect(heard.size).to eq(1)
    end

    it 'masks secrets in what is streamed, and hides it where a whole text is secret' do
      port, = serve(*Array.new(2) { "#{stream(line(4, 'it is abcd') + line(8, 'x') + outcome)}0\r\n\r\n" })
      wait(port, token: 'abcd')
      wait(port, data: sensitive('secret text'))
      expect(logged.map(&:last)).to eq(['it is [redacted]', 'x', '[output redacted]'])
    end

    it 'takes what streams something else for no run' do
      port, = serve("#{stream("data: #{'x' * 2_000_000}", 'none')}0\r\n\r\n")
      expect(wait(port)).to end_with('what it streams is no output of a run')
    end

    it 'asks for the form of answer that tells how the run ended, whatever header says' do
      port, heard = serve(answer('200 OK', run({})))
      wait(port, header: { 'Accept' => 'text/plain' })
      expect(parse(heard.first)[1]['accept']).to start_with('text/event-stream, application/json;q=0.9')
    end

    it 'fails when the run cannot be followed, is not over in time, or is not named' do
      accepted = answer('202 Accepted', JSON.generate('runs' => [{ 'id' => id, 'state' => 'queued' }]))
      port, = serve(accepted, problem('403 Forbidden', 'detail' => 'only callers on this host'))
      expect(wait(port)).to end_with("run #{id} was accepted but cannot be followed: 403 Forbidden: only callers on this host")
      port, = serve(accepted, *Array.new(9) { answer('200 OK', run('state' => 'queued')) })
      expect(wait(port, timeout: 0.5))
        .to end_with("run #{id} was accepted but not over within 0.5 seconds (timeout)")
      port, = serve(answer('202 Accepted'))
      expect(wait(port)).to end_with('202 Accepted, which names no run')
    end

    it 'takes the status alone from whoever is no listener' do
      port, = serve(answer('200 OK', '[1]'), answer('500 Oops', 'no'))
      expect(wait(port)).to end_with('200 OK')
      expect(wait(port)).to end_with('500 Internal Server Error instead of 200-299: no')
    end
  end

  describe 'PW-T15: masking' do
    def reason(body, attributes)
      port, = serve(answer('500 Oops', body))
      failure(attributes.merge(port: port))[/instead of 200-299: (.*)\z/, 1]
    end

    it 'masks a secret that the answer repeats, in the forms in which it travels' do
      data = { 'token' => sensitive('p"ä ss'), 'list' => [sensitive('a+b/c')] }
      expect(reason('got p"ä ss and p\"ä ss', data: data)).to eq('got [redacted] and [redacted]')
      expect(reason('got a%2Bb%2Fc in the form', data: data)).to eq('got [redacted] in the form')
      expect(reason('bad tokenpart', header: { 'Authorization' => sensitive('Bearer tokenpart') })).to eq('bad [redacted]')
    end

    it 'masks the longer of two secrets whole' do
      expect(reason("sword\e[1mfish sword", data: [sensitive('sword'), sensitive('swordfish')])).to eq('[redacted] [redacted]')
    end

    it 'masks numbers as numbers, and no truth values' do
      expect(reason('7 and 77 and true', data: sensitive('a' => 7, 'b' => true))).to eq('[redacted] and 77 and true')
    end

    it 'shows nothing of an answer when a whole text is secret' do
      expect(reason('part', data: sensitive('one part of it'))).to eq('[redacted]')
    end

    it 'masks a secret in the URL, in the errors of the client and in the output of a run' do
      expect(http(route: sensitive('kick?token=abc')).provider.summary(:get)).to eq('GET http://127.0.0.1:6969/[redacted]')
      expect(failure(port: 1, data: [sensitive('Connection refused')])).to match(/\(\[redacted\]/)
      output = { 'id' => '01JD00000000000000000000AA', 'state' => 'succeeded', 'output' => { 'text' => "it is\nabc\n" } }
      port, = serve(answer('200 OK', JSON.generate(output)))
      call = http(port: port, wait: true, data: [sensitive('abc')])
      expect(call).to receive(:send_log).with(:notice, 'it is').ordered
      expect(call).to receive(:send_log).with(:notice, '[redacted]').ordered
      call.provider.deliver(:post)
    end

    it 'masks password, token and the secret of hmac without being told' do
      expect(reason("pass w0rd #{['me:pass w0rd'].pack('m0')}", user: 'me', password: 'pass w0rd')).to eq('[redacted] [redacted]')
      expect(reason('is t0ken', token: 't0ken')).to eq('is [redacted]')
      expect(reason('is seekrit', hmac: { 'secret' => 'seekrit' })).to eq('is [redacted]')
      expect(reason('is github', hmac: { 'style' => 'github', 'secret' => 'seekrit' })).to eq('is github')
    end

    it 'masks a secret URL with its parts, and shows nothing of the answer' do
      port, = serve(answer('500 Oops', 'bad key'))
      expect(failure(fqdn: nil, url: sensitive("http://127.0.0.1:#{port}/hook/kkkk?x=1")))
        .to eq('GET [redacted]: 500 Internal Server Error instead of 200-299: [redacted]')
      expect(failure(fqdn: nil, url: sensitive('http://127.0.0.1:1/hook/kkkk'))).to match(/redacted/).and(match(/\A(?!.*127\.0)/))
    end

    it 'keeps the client from copying bytes to standard error, for this request only' do
      Puppet[:http_debug] = true
      port, = serve(answer('200 OK'), answer('200 OK'))
      expect { deliver(port: port, data: [sensitive('abc')]) }.not_to output.to_stderr
      expect { deliver(port: port, data: ['abc']) }.to output(/abc/).to_stderr
    ensure
      Puppet[:http_debug] = false
    end
  end
end

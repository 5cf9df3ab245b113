# frozen_string_literal: true

require 'json'
require 'socket'

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
    Puppet::Type.type(:http).new({ title: 'kick', fqdn: '127.0.0.1' }.merge(attributes))
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
      expect(sent(wait: true, route: 'kick?async=true').first).to eq('GET /kick?async=true HTTP/1.1')
    end

    it 'PW-T15: unwraps Sensitive at any depth, and values that Puppet resolves late' do
      late = Puppet::Pops::Evaluator::DeferredValue.new(-> { sensitive('late') })
      _, headers, body = sent(data: { 'a' => [sensitive('b')], 'c' => sensitive('d' => sensitive(5)), 'e' => late },
                              header: { 'X-Token' => sensitive('t') })
      expect(JSON.parse(body)).to eq('a' => ['b'], 'c' => { 'd' => 5 }, 'e' => 'late')
      expect(headers).to include('x-token' => 't')
    end

    it 'refuses data that JSON cannot hold, without showing it' do
      expect([failure(data: { 'a' => "secret\xff" }), failure(data: { 'a' => Float::NAN })])
        .to all(eq('data cannot be written as JSON: it holds text that is not UTF-8, or a number that is not finite'))
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
      allow(call.provider).to receive(:max_answer).and_return(200_000)
      expect(call.provider.deliver(:get)).to end_with('200 OK')
      expect(heard_enough.pop).to be(true)
    end

    it 'leaves no connection of its own in the pool of Puppet' do
      port, = serve(answer('200 OK'))
      deliver(port: port)
      expect(Puppet.runtime[:http].pool.pool.values.flatten).to eq([])
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
      port, = serve(answer('200 OK', run('output' => { 'text' => (1..1000).map { |n| "#{n}\n" }.join })))
      wait(port)
      lines = logged.map(&:last)
      expect([lines.size, lines[99], lines[100], lines[101]])
        .to eq([201, '100', '[800 lines left out; the listener has them all]', '901'])
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

    it 'asks for the form of answer that tells how the run ended, whatever header says' do
      port, heard = serve(answer('200 OK', run({})))
      wait(port, header: { 'Accept' => 'text/plain' })
      expect(parse(heard.first)[1]['accept']).to eq('application/json')
    end

    it 'fails when the run cannot be followed, is not over in time, or is not named' do
      accepted = answer('202 Accepted', JSON.generate('runs' => [{ 'id' => id, 'state' => 'queued' }]))
      port, = serve(accepted, problem('403 Forbidden', 'detail' => 'only callers on this host'))
      expect(wait(port)).to end_with("run #{id} was accepted but cannot be followed: 403 Forbidden: only callers on this host")
      port, = serve(accepted, *Array.new(9) { answer('200 OK', run('state' => 'queued')) })
      expect(wait(port, timeout: 0.5))
        .to end_with("run #{id} was queued when the listener last told of it, and not over within 0.5 seconds (timeout)")
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

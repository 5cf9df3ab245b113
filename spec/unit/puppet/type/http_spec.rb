# frozen_string_literal: true

RSpec.describe Puppet::Type.type(:http) do
  def http(attributes = {})
    described_class.new({ title: 'kick', fqdn: 'listener.example.com' }.merge(attributes).compact)
  end

  def sensitive(value)
    Puppet::Pops::Types::PSensitiveType::Sensitive.new(value)
  end

  def refusal(attributes)
    http(attributes)
    nil
  rescue Puppet::Error => e
    e.message
  end

  describe 'what a call is when little is said' do
    it 'PW-T3: takes the title as the route' do
      expect(http[:route]).to eq('kick')
      expect(http(route: '/deploy?x=1')[:route]).to eq('/deploy?x=1')
    end

    it 'gets, and posts when there is data' do
      expect(http[:ensure]).to eq(:get)
      expect(http(data: { 'a' => 1 })[:ensure]).to eq(:post)
      expect(http(data: { 'a' => 1 }, ensure: :put)[:ensure]).to eq(:put)
    end

    it 'calls port 6969 without TLS, waits for no run and takes any 2xx within a minute' do
      expect(http.to_hash).to include(port: 6969, returns: [200..299], timeout: 60)
      expect(%i[tls wait refreshonly].map { |name| http[name] }).to all(be_falsey)
    end

    it 'gives a call that waits for its run a quarter of an hour' do
      expect(http(wait: true)[:timeout]).to eq(900)
      expect(http(wait: true, timeout: 5)[:timeout]).to eq(5)
    end
  end

  describe 'what it understands' do
    it 'PW-T5: takes the methods of HTTP and no state of a file' do
      %w[get post put patch delete head].each { |method| expect(http(ensure: method)[:ensure]).to eq(method.to_sym) }
      %w[present absent options].each { |word| expect(refusal(ensure: word)).to match(/Valid values are get, post/) }
    end

    it 'takes a port as a number and as a string' do
      expect(http(port: '8080')[:port]).to eq(8080)
      expect(http(port: 65_535)[:port]).to eq(65_535)
    end

    it 'takes statuses, ranges and lists of both' do
      expect(http(returns: 202)[:returns]).to eq([202..202])
      expect(http(returns: '200-299')[:returns]).to eq([200..299])
      expect(http(returns: [200, '202', '404-410'])[:returns]).to eq([200..200, 202..202, 404..410])
    end

    it 'takes a time limit in seconds or fractions of one' do
      expect(http(timeout: '2.5')[:timeout]).to eq(2.5)
      expect(http(timeout: '30')[:timeout]).to eq(30)
    end

    it 'takes the ways of TLS' do
      files = { 'ca' => '/etc/ca.pem', 'cert' => '/etc/me.pem', 'key' => '/etc/me.key' }
      expect([false, 'false', 'puppet', :system, files].map { |tls| http(tls: tls)[:tls] })
        .to eq([false, false, :puppet, :system, files])
    end

    it 'takes a whole address instead of host, port and route' do
      call = described_class.new(title: 'kick', url: 'https://api.example.com/teams?x=1')
      expect(%i[fqdn port route tls].map { |name| call[name] }).to eq([nil, nil, nil, nil])
    end

    it 'takes secrets and probes in their forms' do
      [
        { user: 'me', password: sensitive('pw') }, { token: sensitive('t0ken') }, { hmac: sensitive('s') },
        { hmac: { 'style' => 'standard-webhooks', 'secret' => sensitive('whsec_c2VjcmV0') } },
        { onlyif: 'state' }, { unless: ['state', { 'url' => 'https://one.example.com/', 'status' => [200, '404-410'] }] },
        { onlyif: { 'method' => 'head' } }, { unless: { 'route' => 'x', 'json' => { 'a.0' => nil }, 'body' => '^ok$' } },
        { save_to: { 'path' => '/tmp/a', 'mode' => '640' } }, { creates: %w[/tmp/a /tmp/b] }, { tries: '3', try_sleep: '0.5' }
      ].each { |attributes| expect(refusal(attributes)).to be_nil }
    end

    it 'requires the directories above the file it saves to' do
      catalog = Puppet::Resource::Catalog.new
      catalog.add_resource(dir = Puppet::Type.type(:file).new(path: '/etc/billing', ensure: :directory))
      catalog.add_resource(call = http(save_to: { 'path' => '/etc/billing/x/team.json' }))
      expect(call.autorequire.map(&:source)).to eq([dir])
    end

    it 'PW-B10: takes the same route on two hosts into one catalog' do
      catalog = Puppet::Resource::Catalog.new
      catalog.add_resource(http(title: 'a', route: 'kick', fqdn: 'one.example.com'))
      catalog.add_resource(http(title: 'b', route: 'kick', fqdn: 'two.example.com'))
      expect(catalog.resources.map { |resource| resource[:route] }).to eq(%w[kick kick])
    end

    it 'requires the file resources of its certificates' do
      catalog = Puppet::Resource::Catalog.new
      catalog.add_resource(file = Puppet::Type.type(:file).new(path: '/etc/ca.pem'))
      catalog.add_resource(call = http(tls: { 'ca' => '/etc/ca.pem' }))
      expect(call.autorequire.map(&:source)).to eq([file])
    end
  end

  describe 'what it refuses' do
    {
      'a URL for a host' => [{ fqdn: 'http://one.example.com' }, /it is a host name or an IPv4 address alone/],
      'a host with a port' => [{ fqdn: 'one.example.com:6969' }, /port, route and tls are attributes of their own/],
      'an IPv6 address' => [{ fqdn: '[::1]' }, /cannot call an IPv6 address/],
      'a port that is none' => [{ port: 0 }, /whole number from 1 to 65535/],
      'a port beyond the last' => [{ port: '65536' }, /whole number from 1 to 65535/],
      'a port in words' => [{ port: 'http' }, /whole number from 1 to 65535/],
      'a URL for a route' => [{ route: 'https://one.example.com/kick' }, /route: it is a path/],
      'a route over two lines' => [{ route: "kick\r\nX: y" }, /route: must not contain control characters/],
      'a broken escape in a route' => [{ route: '100%' }, /two hexadecimal digits/],
      'data that is a number' => [{ data: 5 }, /data must be a hash, an array or a string/],
      'a list of headers' => [{ header: ['a'] }, /header must be a content type or a hash/],
      'a name that is no header' => [{ header: { 'a b' => 'c' } }, /not a header name/],
      'a header over two lines' => [{ header: { 'X-A' => "b\r\nX-C: d" } }, /one line of text/],
      'a content type over two lines' => [{ header: "text/plain\nX-C: d" }, /one line of text/],
      'a header that frames the message' => [{ header: { 'Content-Length' => '5' } }, /is set by Puppet's HTTP client/],
      'TLS without saying whose' => [{ tls: true }, /must be false, puppet, system, or a hash/],
      'TLS with an unknown key' => [{ tls: { 'ca' => '/a', 'crl' => '/b' } }, /unknown key "crl"/],
      'TLS without a CA' => [{ tls: { 'cert' => '/a', 'key' => '/b' } }, /ca is missing/],
      'a certificate without its key' => [{ tls: { 'ca' => '/a', 'cert' => '/b' } }, /cert and key go together/],
      'a relative path' => [{ tls: { 'ca' => 'ca.pem' } }, /must be an absolute path/],
      'a status that is none' => [{ returns: 99 }, /must be a status/],
      'a range that is upside down' => [{ returns: '299-200' }, /must be a status such as 200 or a range/],
      'no status at all' => [{ returns: [] }, /at least one status/],
      'no time at all' => [{ timeout: 0 }, /seconds above 0/],
      'more than a day' => [{ timeout: 86_401 }, /at most 86400/],
      'a URL and a host' => [{ url: 'http://one.example.com/' }, /url and fqdn are alternatives.*with fqdn => undef/],
      'a URL and a route' => [{ fqdn: nil, url: 'http://one.example.com/', route: 'kick' }, /url and route are alternatives/],
      'a URL without a host' => [{ fqdn: nil, url: 'https:///kick' }, /url: it must begin with .* and name a host/],
      'a URL of another protocol' => [{ fqdn: nil, url: 'ftp://one.example.com/' }, /url: it must begin with/],
      'a URL with a password' => [{ fqdn: nil, url: 'http://a:b@one.example.com/' }, /give them as user and password/],
      'a URL with a fragment' => [{ fqdn: nil, url: 'http://one.example.com/#a' }, /fragment/],
      'a URL with an IPv6 address' => [{ fqdn: nil, url: 'http://[::1]/' }, /cannot call an IPv6 address/],
      'a URL that is none' => [{ fqdn: nil, url: 'http://one.example.com:port/' }, /url: it is not a URL/],
      'plain http with TLS' => [{ fqdn: nil, url: 'http://one.example.com/', tls: :puppet }, /begins with http:/],
      'https without TLS' => [{ fqdn: nil, url: 'https://one.example.com/', tls: false }, /begins with https:/],
      'a user without a password' => [{ user: 'me' }, /user and password go together/],
      'a password without a user' => [{ password: '4711' }, /user and password go together/],
      'a user and a token' => [{ user: 'me', password: 'pw', token: 't' }, /token and user are alternatives/],
      'two authorizations' => [{ token: 't', header: { 'AUTHORIZATION' => 'x' } }, /header sets Authorization/],
      'a token over two lines' => [{ token: "a\nb" }, /token must be/],
      'an empty password' => [{ user: 'me', password: '' }, /not empty/],
      'an empty secret' => [{ hmac: '' }, /not empty/],
      'an unknown style' => [{ hmac: { 'style' => 'gitlab', 'secret' => 's' } }, /github or standard-webhooks/],
      'a header that is none for a signature' => [{ hmac: { 'secret' => 's', 'header' => 'a b' } }, /not a header name/],
      'a header where they are fixed' => [{ hmac: { 'style' => 'standard-webhooks', 'header' => 'X' } }, /are fixed/],
      'a secret that is not Base64' => [{ hmac: { 'style' => 'standard-webhooks', 'secret' => 'a-b' } }, /in Base64/],
      'no try at all' => [{ tries: 0 }, /from 1 to 1000/],
      'a pause of a day' => [{ try_sleep: 86_400 }, /from 0 to 3600/],
      'an unknown key in a probe' => [{ unless: { 'path' => '/' } }, /unless: unknown key "path", known are route, url/],
      'a probe of two addresses' => [{ onlyif: { 'route' => 'a', 'url' => 'http://b/' } }, /route and url are alternatives/],
      'a probe that changes things' => [{ onlyif: { 'method' => 'post' } }, /a probe is to change nothing/],
      'a probe without a pattern' => [{ onlyif: { 'body' => '(' } }, /must be a regular expression/],
      'a probe for no status' => [{ unless: { 'status' => 'ok' } }, /unless: "ok": must be a status/],
      'a probe that is a number' => [{ unless: 5 }, /unless: must be a route, a URL, or a hash/],
      'a relative file that is created' => [{ creates: 'a' }, /creates must be an absolute path/],
      'a relative file to save to' => [{ save_to: 'a' }, /save_to must be an absolute path/],
      'a mode that is none' => [{ save_to: { 'path' => '/a', 'mode' => 'u+x' } }, /octal digits/],
      'waiting for what runs nothing' => [{ ensure: :head, wait: true }, /runs nothing for head/],
      'waiting and not waiting' => [{ route: 'a?async=true', wait: true }, /async=true, which is not to wait/],
      'a wait that is no boolean' => [{ wait: 'maybe' }, /Invalid value "maybe"/]
    }.each do |what, (attributes, message)|
      it("refuses #{what}") { expect(refusal(attributes)).to match(message) }
    end

    it 'PW-T4: refuses a call without a host' do
      expect { described_class.new(title: 'kick') }.to raise_error(Puppet::Error, /fqdn is missing/)
    end

    it 'PW-T15: never shows what it refuses where secrets stand' do
      [
        { fqdn: nil, url: sensitive('http://a:4711@one.example.com/') },
        { fqdn: nil, url: 'https://4711:x/' },
        { token: sensitive('4711 ') },
        { user: 'me', password: "4711\n" },
        { hmac: { 'style' => 'standard-webhooks', 'secret' => '4711-' } },
        { unless: { 'url' => 'http://a:4711@one.example.com/' } },
        { unless: sensitive('body' => '4711(') },
        { data: sensitive(4_711) },
        { header: { 'X-Token' => sensitive("4711\n") } },
        { header: sensitive("4711\n") },
        { route: sensitive('4711%') },
        { data: { 'a' => sensitive('4711') }, port: 0 }
      ].each { |attributes| expect(refusal(attributes)).to be_a(String).and(satisfy { |text| !text.include?('4711') }) }
    end
  end

  describe 'when it is due' do
    let(:call) { http }

    it 'is not while what it creates exists, and tells so at debug level' do
      call[:creates] = ['/nowhere', __FILE__]
      expect(call).to receive(:debug).with("not sent: #{__FILE__} exists")
      expect(call).not_to be_due
      call[:creates] = '/nowhere'
      expect(call).to be_due
    end

    it 'with refreshonly is only in a refresh, which asks the rest too' do
      call[:refreshonly] = true
      expect([call.due?, call.due?(refreshing: true)]).to eq([false, true])
      call[:creates] = __FILE__
      expect(call.due?(refreshing: true)).to be(false)
    end
  end

  describe 'in a catalog' do
    let(:provider) { call.provider }
    let(:call) { http }

    def apply(resource)
      catalog = Puppet::Resource::Catalog.new
      catalog.host_config = false
      catalog.add_resource(resource)
      catalog.apply.report.resource_statuses[resource.ref]
    end

    it 'PW-T9, PW-B4: is a change each time it is sent, and never a corrective one' do
      allow(provider).to receive(:deliver).with(:get).and_return('sent GET http://listener.example.com:6969/kick: 202 Accepted')
      status = apply(call)
      expect(status.events.map(&:message)).to eq(['sent GET http://listener.example.com:6969/kick: 202 Accepted'])
      expect([status.changed, status.failed, status.corrective_change]).to eq([true, false, false])
      expect(call.property(:ensure)).not_to be_idempotent
    end

    it 'fails as the provider does' do
      allow(provider).to receive(:deliver).and_raise(Puppet::Error, 'refused')
      expect(apply(call).events.map(&:message)).to eq(["change from 'absent' to 'get' failed: refused"])
    end

    it 'PW-T10: sends nothing in noop mode and says what it would send' do
      allow(call.property(:ensure)).to receive(:noop).and_return(true)
      expect(provider).not_to receive(:deliver)
      expect(apply(call).events.map(&:message))
        .to eq(["current_value 'absent', should be 'GET http://listener.example.com:6969/kick' (noop)"])
    end

    it 'PW-T16: with refreshonly sends when refreshed and only then' do
      call[:refreshonly] = true
      expect(provider).to receive(:deliver).once.with(:get).and_return('sent')
      expect(apply(call).events).to eq([])
      call.refresh
    end

    it 'PW-T16: without refreshonly does not send again when refreshed' do
      expect(provider).to receive(:deliver).once.and_return('sent')
      apply(call)
      call.refresh
    end

    it 'marks what is Sensitive without a warning' do
      resource = Puppet::Resource.new(:http, 'kick', parameters: { fqdn: 'one.example.com', data: 'a', header: 'text/plain' })
      resource.sensitive_parameters = %i[data header fqdn]
      expect(Puppet::Util::Log).not_to receive(:create)
      call = described_class.new(resource)
      expect(%i[data header fqdn route].map { |name| call.parameter(name).sensitive }).to eq([true, true, true, nil])
    end
  end

  it 'says why it cannot be listed' do
    expect { described_class.instances }.to raise_error(Puppet::Error, /nothing on a host that could be listed/)
  end
end

# frozen_string_literal: true

RSpec.describe Puppet::Type.type(:http) do
  def http(attributes = {})
    described_class.new({ title: 'kick', fqdn: 'listener.example.com' }.merge(attributes))
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
      'a URL for a route' => [{ route: 'https://one.example.com/kick' }, /route is a path/],
      'a route over two lines' => [{ route: "kick\r\nX: y" }, /control characters/],
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
      'a wait that is no boolean' => [{ wait: 'maybe' }, /Invalid value "maybe"/]
    }.each do |what, (attributes, message)|
      it("refuses #{what}") { expect(refusal(attributes)).to match(message) }
    end

    it 'PW-T4: refuses a call without a host' do
      expect { described_class.new(title: 'kick') }.to raise_error(Puppet::Error, /fqdn is missing/)
    end

    it 'PW-T15: never shows what it refuses in data, header and route' do
      [
        { data: sensitive(4_711) },
        { header: { 'X-Token' => sensitive("4711\n") } },
        { header: sensitive("4711\n") },
        { route: sensitive('4711%') },
        { data: { 'a' => sensitive('4711') }, port: 0 }
      ].each { |attributes| expect(refusal(attributes)).to be_a(String).and(satisfy { |text| !text.include?('4711') }) }
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
      resource.sensitive_parameters = %i[data header]
      expect(Puppet::Util::Log).not_to receive(:create)
      call = described_class.new(resource)
      expect(%i[data header route].map { |name| call.parameter(name).sensitive }).to eq([true, true, nil])
    end
  end

  it 'says why it cannot be listed' do
    expect { described_class.instances }.to raise_error(Puppet::Error, /nothing on a host that could be listed/)
  end
end

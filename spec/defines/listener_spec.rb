# frozen_string_literal: true

RSpec.describe 'webhook::listener' do
  let(:title) { 'puppet' }
  let(:file) { catalogue.resource('file', '/etc/puppet-webhook/puppet/routes.yaml') }
  let(:written) { YAML.safe_load(file[:content]) }
  let(:service) { catalogue.resource('file', '/etc/systemd/system/puppet-webhook@puppet.service')[:content] }
  let(:socket) { catalogue.resource('file', '/etc/systemd/system/puppet-webhook@puppet.socket')[:content] }

  context 'with the parameters of the original' do
    let(:params) do
      {
        'port' => '6969',
        'routes' => {
          'kick_haproxy_app_internal' => {
            'method' => 'get',
            'command' => "su - peadmin -c 'mco puppet runonce -F role=haproxy_app_internal'"
          }
        }
      }
    end

    it 'PW-L2, PW-L5: writes them as routes.yaml, listening on every IPv4 address' do
      is_expected.to compile.with_all_deps
      expect(written).to eq(
        'listen' => { 'address' => '0.0.0.0', 'port' => 6969 },
        'defaults' => { 'auth' => 'none' },
        'routes' => params['routes']
      )
    end

    it 'PW-L9: needs no include beside it, and its service is running and enabled' do
      is_expected.to contain_class('webhook')
      is_expected.to contain_service('puppet-webhook@puppet.service')
        .with('ensure' => 'running', 'enable' => true)
        .that_requires('Class[webhook::install]')
    end

    it 'PW-L7: configuration and state have directories of their own, which others cannot read' do
      is_expected.to contain_file('/etc/puppet-webhook/puppet').with('owner' => 'root', 'group' => 'puppet-webhook',
                                                                     'mode' => '0750')
      is_expected.to contain_file('/var/lib/puppet-webhook/puppet').with('owner' => 'puppet-webhook', 'mode' => '0700')
      expect(file.to_hash).to include(mode: '0640', owner: 'root', group: 'puppet-webhook', show_diff: false)
    end

    it 'PW-L8: a changed file is checked, and reloads instead of restarting' do
      expect(file[:validate_cmd]).to match(%r{exec /usr/local/bin/puppet-webhook check --config "%"})
      is_expected.to contain_exec('webhook: reload puppet')
        .with('command' => 'systemctl reload puppet-webhook@puppet.service', 'refreshonly' => true)
        .that_subscribes_to('File[/etc/puppet-webhook/puppet/routes.yaml]')
      is_expected.not_to contain_service('puppet-webhook@puppet.service')
        .that_subscribes_to('File[/etc/puppet-webhook/puppet/routes.yaml]')
    end

    it 'PW-L10, PW-B8, PW-B9: is a unit of systemd, which knows its process and its state; there is no pid file' do
      expect(service).to match(/^Type=notify$/).and match(/^ExecReload=/).and match(/^KillMode=mixed$/)
      expect(service).not_to match(/PIDFile|daemon/)
    end

    it 'PW-B6: systemd opens the port at the address asked for' do
      expect(socket).to match(/^ListenStream=0\.0\.0\.0:6969$/)
      is_expected.to contain_service('puppet-webhook@puppet.socket')
        .with('ensure' => 'running', 'enable' => true)
        .that_comes_before('Service[puppet-webhook@puppet.service]')
    end

    it 'runs as a user without privileges, in a sandbox' do
      expect(service).to match(/^User=puppet-webhook$/).and match(/^NoNewPrivileges=yes$/).and match(/^ProtectSystem=strict$/)
    end
  end

  context 'with command and method beside routes' do
    let(:params) { { 'command' => 'date', 'http_method' => 'get' } }

    it('PW-L3: does not compile') { is_expected.to compile.and_raise_error(/no parameter named '(command|http_method)'/) }
  end

  it 'PW-L4: without any parameter it has defaults that are used' do
    expect(written).to eq('listen' => { 'address' => '0.0.0.0', 'port' => 6969 }, 'routes' => {})
  end

  context 'with https' do
    let(:params) { { 'ssl_enable' => true, 'cert_path' => '/etc/ssl/a.pem', 'key_path' => '/etc/ssl/a.key' } }

    it { expect(written['listen']['tls']).to eq('cert' => '/etc/ssl/a.pem', 'key' => '/etc/ssl/a.key') }
  end

  context 'with https and no certificate' do
    let(:params) { { 'ssl_enable' => true } }

    it { is_expected.to compile.and_raise_error(/ssl_enable needs cert_path and key_path/) }
  end

  context 'with routes some of which say who may call' do
    let(:params) do
      { 'routes' => { 'a' => { 'command' => 'date' }, 'b' => { 'command' => 'date', 'auth' => 'none' } } }
    end

    it('leaves the others closed') { expect(written).not_to have_key('defaults') }
  end

  context 'on this host only' do
    let(:params) do
      { 'bind_address' => ['127.0.0.1', '::1', 'unix:/run/x.sock'], 'routes' => { 'a' => { 'command' => 'date' } } }
    end

    it('opens nothing by itself') { expect(written).not_to have_key('defaults') }

    it 'PW-B6: systemd opens all of them' do
      expect(socket.scan(/^ListenStream=(.*)$/).flatten).to eq(['127.0.0.1:6969', '[::1]:6969', '/run/x.sock'])
    end
  end

  context 'with secrets' do
    let(:params) do
      {
        'routes' => { 'a' => { 'command' => ['deploy', RSpec::Puppet::Sensitive.new('geheim')], 'auth' => 'none' } },
        'credentials' => { 'gitlab' => RSpec::Puppet::Sensitive.new('swordfish') },
        'environment' => { 'TOKEN' => RSpec::Puppet::Sensitive.new('a b"c$d') }
      }
    end

    it 'writes them only into files that others cannot read, and shows no differences' do
      is_expected.to compile.with_all_deps
      credential = catalogue.resource('file', '/etc/puppet-webhook/puppet/credentials/gitlab')
      environment = catalogue.resource('file', '/etc/puppet-webhook/puppet/environment')
      [credential, environment].each do |secret|
        expect(secret.to_hash).to include(mode: '0600', owner: 'root', show_diff: false)
        expect(secret.sensitive_parameters).to include(:content)
      end
      expect(credential[:content]).to eq('swordfish')
      expect(environment[:content]).to eq(%(TOKEN='a b"c$d'\n))
      expect(file.sensitive_parameters).to include(:content)
      expect(written['routes']['a']['command']).to eq(%w[deploy geheim])
      shown = catalogue.resources.map do |resource|
        resource.to_hash.except(:content, :credentials, :environment, :routes).to_s
      end.join
      expect(shown).not_to match(/geheim|swordfish|a b"c/)
    end

    it 'hands them to the listener and to its check alike' do
      expect(service).to match(%r{^LoadCredential=gitlab:/etc/puppet-webhook/puppet/credentials/gitlab$})
        .and match(%r{^EnvironmentFile=/etc/puppet-webhook/puppet/environment$})
      expect(file[:validate_cmd]).to include(
        '. /etc/puppet-webhook/puppet/environment; CREDENTIALS_DIRECTORY=/etc/puppet-webhook/puppet/credentials exec'
      )
    end

    it 'a changed secret restarts, as systemd hands it over at the start' do
      is_expected.to contain_file('/etc/puppet-webhook/puppet/credentials/gitlab')
        .that_notifies('Service[puppet-webhook@puppet.service]').that_comes_before('File[/etc/puppet-webhook/puppet/routes.yaml]')
    end
  end

  context 'with commands for sudo' do
    let(:params) { { 'sudo' => ['/usr/bin/systemctl restart haproxy'] } }

    it 'allows these to its user, and has a sandbox that lets sudo work' do
      is_expected.to contain_webhook__sudo('puppet-webhook-puppet')
        .with('user' => 'puppet-webhook', 'commands' => params['sudo'])
      expect(service).not_to match(/NoNewPrivileges|ProtectSystem|CapabilityBoundingSet/)
    end
  end

  context 'with a port below 1024 and no socket activation' do
    let(:params) { { 'port' => 443, 'socket_activation' => false } }

    it 'has the one capability for that' do
      expect(service).to match(/^AmbientCapabilities=CAP_NET_BIND_SERVICE$/)
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@puppet.socket').with('ensure' => 'absent')
      is_expected.to contain_service('puppet-webhook@puppet.socket')
        .with('ensure' => 'stopped', 'enable' => false)
        .that_comes_before('File[/etc/systemd/system/puppet-webhook@puppet.socket]')
    end
  end

  context 'with another port' do
    let(:params) { { 'port' => 7000 } }

    it 'TW-P7: the unit changes with it, so it restarts' do
      expect(service).to match(/^# Restarted when this changes: #{mark_of(7000)}$/)
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@puppet.service')
        .that_notifies('Service[puppet-webhook@puppet.service]')
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@puppet.socket')
        .that_notifies('Service[puppet-webhook@puppet.socket]')
    end

    def mark_of(port)
      Digest::SHA256.hexdigest(%(address: "0.0.0.0"\nport: #{port}\n))[0, 16]
    end
  end

  context 'with time to drain and lines of its own' do
    let(:params) { { 'drain' => 300, 'service_options' => { 'MemoryMax' => '1G', 'Environment' => %w[A=1 B=2] } } }

    it('stops no sooner than the listener') { expect(service).to match(/--drain 300s$/).and match(/^TimeoutStopSec=315$/) }
    it { expect(service).to match(/^MemoryMax=1G$/).and match(/^Environment=A=1\nEnvironment=B=2$/) }
  end

  context 'when it is to go' do
    let(:params) { { 'ensure' => 'absent', 'credentials' => { 'a' => 'b' } } }

    it 'stops before its files go, and leaves its runs' do
      is_expected.to compile.with_all_deps
      is_expected.to contain_service('puppet-webhook@puppet.service')
        .with('ensure' => 'stopped', 'enable' => false)
        .that_comes_before('File[/etc/systemd/system/puppet-webhook@puppet.service]')
      is_expected.to contain_file('/etc/puppet-webhook/puppet').with('ensure' => 'absent')
      is_expected.not_to contain_file('/var/lib/puppet-webhook/puppet')
    end
  end

  context 'where nothing can be started' do
    let(:pre_condition) { "class { 'webhook': manage_services => false }" }

    it 'writes everything and starts nothing' do
      is_expected.to compile.with_all_deps
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@puppet.service')
      expect(catalogue.resource_keys.map(&:first)).not_to include('Service')
    end
  end

  {
    'an unknown key of a route' => [{ 'routes' => { 'a' => { 'comand' => 'date' } } },
                                    /entry 'routes'.*|unrecognized key 'comand'/],
    'a duration without unit' => [{ 'routes' => { 'a' => { 'command' => 'date', 'timeout' => 30 } } }, /'timeout'/],
    'a port that is none' => [{ 'port' => 70_000 }, /'port'/],
    'an unknown key of listen' => [{ 'listen' => { 'adress' => '::' } }, /unrecognized key 'adress'/]
  }.each do |what, (given, message)|
    context "with #{what}" do
      let(:params) { given }

      it { is_expected.to compile.and_raise_error(message) }
    end
  end

  context 'with a title that is no name for files' do
    let(:title) { '../puppet' }

    it { is_expected.to compile.and_raise_error(/letters, digits, - and _/) }
  end
end

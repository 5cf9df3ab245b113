# frozen_string_literal: true

RSpec.describe 'webhook::twitch' do
  let(:service) { catalogue.resource('file', '/etc/systemd/system/puppet-webhook@twitch.service')[:content] }
  let(:sudoers) { catalogue.resource('file', '/etc/sudoers.d/twitch') }

  it 'TW-P1, TW-P2: with everything as it comes there are user, group, rules, and a service on 2023' do
    is_expected.to compile.with_all_deps
    is_expected.to contain_user('twitch').with('uid' => 2023, 'gid' => 'twitch', 'home' => '/home/twitch', 'managehome' => true)
    is_expected.to contain_group('twitch').with('gid' => 2023)
    is_expected.to contain_webhook__listener('twitch').with('bind_address' => '0.0.0.0', 'port' => 2023, 'user' => 'twitch')
  end

  it 'TW-P3, TW-B8: exactly three commands are allowed to the group, in a file that only root may read' do
    expect(sudoers.to_hash).to include(mode: '0440', owner: 'root', group: 'root', validate_cmd: '/usr/sbin/visudo -c -f %')
    expect(sudoers[:content].scan(/^%twitch .*$/)).to eq(
      [
        '%twitch ALL = (root) NOPASSWD: /usr/bin/puppet config print agent_catalog_run_lockfile',
        '%twitch ALL = (root) NOPASSWD: /usr/bin/puppet agent --onetime',
        '%twitch ALL = (root) NOPASSWD: /usr/bin/puppet agent --onetime --no-daemonize'
      ]
    )
  end

  it 'TW-P5, TW-B10, RK-V10: is a unit of systemd that runs as the user and is started with the host' do
    is_expected.to contain_service('puppet-webhook@twitch.service').with('ensure' => 'running', 'enable' => true)
    expect(service).to match(/^User=twitch$/).and match(/^Group=twitch$/)
  end

  it 'TW-P6: user, rules and directories come before the service' do
    is_expected.to contain_user('twitch').that_comes_before('Service[puppet-webhook@twitch.service]')
    is_expected.to contain_file('/etc/sudoers.d/twitch')
    is_expected.to contain_file('/var/lib/puppet-webhook/twitch').that_comes_before('Service[puppet-webhook@twitch.service]')
  end

  context 'with other values' do
    let(:params) do
      {
        'user' => 'runner', 'group' => 'ops', 'home' => '/srv/runner', 'managehome' => false, 'uid' => 900, 'gid' => '901',
        'bind' => '127.0.0.1', 'port' => '2024', 'run_dir' => '/srv/runs', 'service' => 'kick', 'puppet' => '/bin/puppet',
        'source' => '/tmp/puppet-webhook.tar.gz'
      }
    end

    it 'TW-P2, TW-P4, TW-B7: all of them count' do
      is_expected.to compile.with_all_deps
      is_expected.to contain_user('runner').with('uid' => 900, 'gid' => 'ops', 'home' => '/srv/runner', 'managehome' => false)
      is_expected.to contain_file('/etc/sudoers.d/runner')
        .with('content' => %r{^%ops ALL = \(root\) NOPASSWD: /bin/puppet agent --onetime$})
      is_expected.to contain_file('/srv/runs').with('owner' => 'runner')
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@kick.socket')
        .with('content' => /^ListenStream=127\.0\.0\.1:2024$/)
      is_expected.to contain_file('/opt/puppet-webhook/puppet-webhook.tar.gz').with('source' => params['source'])
    end

    it 'TW-P7, TW-B6: a changed port or address restarts the service' do
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@kick.socket')
        .that_notifies('Service[puppet-webhook@kick.socket]')
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@kick.service')
        .that_notifies('Service[puppet-webhook@kick.service]')
    end
  end

  context "with Puppet's own packages" do
    let(:facts) { { 'aio_agent_version' => '8.10.0' } }

    it { expect(sudoers[:content]).to match(%r{NOPASSWD: /opt/puppetlabs/bin/puppet agent}) }
  end

  it 'TW-P8: leaves the firewall and the inclusion of sudoers.d to the administrator' do
    expect(catalogue.resource('file', '/etc/sudoers')).to be_nil
    expect(catalogue.resource_keys.map(&:first).grep(/firewall/i)).to be_empty
  end

  it 'TW-P9, TW-B12: no password is set' do
    expect(catalogue.resource('user', 'twitch')[:password]).to be_nil
  end
end

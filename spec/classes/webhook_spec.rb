# frozen_string_literal: true

RSpec.describe 'webhook' do
  context 'with everything as it comes' do
    it { is_expected.to compile.with_all_deps }

    it 'PW-L1: brings the listener in the module, and no gem' do
      is_expected.to contain_file('/opt/puppet-webhook/puppet-webhook.tar.gz')
        .with('source' => 'puppet:///modules/webhook/puppet-webhook.tar.gz')
      is_expected.to contain_file('/usr/local/bin/puppet-webhook')
        .with('mode' => '0755', 'content' => %r{^exec /usr/bin/node /opt/puppet-webhook/puppet-webhook/dist/main\.cjs "\$@"$})
      expect(catalogue.resources.select { |resource| resource['provider'].to_s == 'gem' }).to be_empty
    end

    it 'makes a user without shell, home or privileges, and nothing runs as root' do
      is_expected.to contain_user('puppet-webhook').with('system' => true, 'shell' => '/usr/sbin/nologin', 'managehome' => false)
      is_expected.to contain_group('puppet-webhook')
      expect(catalogue.resource_keys.map(&:first)).not_to include('Service')
    end

    it 'makes sure that Node.js is new enough before anything needs it' do
      is_expected.to contain_package('nodejs').that_comes_before('Exec[webhook: Node.js is new enough]')
      is_expected.to contain_exec('webhook: Node.js is new enough').that_comes_before('File[/usr/local/bin/puppet-webhook]')
    end
  end

  context 'with Node.js from the module' do
    let(:params) { { 'node_method' => 'bundled' } }

    it { is_expected.to contain_webhook__archive('/opt/puppet-webhook/node').with('source' => %r{/node-linux-x64\.tar\.gz$}) }
    it {
      is_expected.to contain_file('/usr/local/bin/puppet-webhook').with('content' => %r{^exec /opt/puppet-webhook/node/bin/node })
    }
    it { is_expected.not_to contain_package('nodejs') }
  end

  context 'with Node.js from the module, which has none for the architecture' do
    let(:params) { { 'node_method' => 'bundled' } }
    let(:facts) { { 'os' => RSpec.configuration.default_facts['os'].merge('architecture' => 'riscv64') } }

    it { is_expected.to compile.and_raise_error(/no Node\.js for riscv64: "npm run build:module -- --node"/) }
  end

  context 'with the npm package' do
    let(:params) { { 'install_method' => 'npm', 'source' => 'puppet-webhook@0.1.0' } }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_exec('webhook: npm install puppet-webhook@0.1.0') }
    it { is_expected.not_to contain_file('/opt/puppet-webhook/puppet-webhook.tar.gz') }
  end

  context 'with what is there already' do
    let(:params) { { 'install_method' => 'none', 'node_method' => 'none', 'manage_user' => false } }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.not_to contain_file('/usr/local/bin/puppet-webhook') }
    it { is_expected.not_to contain_user('puppet-webhook') }
  end

  context 'with an archive of the site' do
    let(:params) { { 'source' => 'https://files.example.com/puppet-webhook.tar.gz', 'source_checksum' => 'a' * 64 } }

    it 'TW-P4: takes it, if its checksum is right' do
      is_expected.to contain_file('/opt/puppet-webhook/puppet-webhook.tar.gz')
        .with('source' => params['source'], 'checksum' => 'sha256', 'checksum_value' => 'a' * 64)
    end
  end

  context 'with listeners from Hiera' do
    let(:params) do
      { 'listeners' => { 'one' => { 'port' => 6969, 'routes' => {} }, 'two' => { 'port' => '6970', 'user' => 'deploy' } } }
    end

    it 'PW-L6: declares each' do
      is_expected.to compile.with_all_deps
      is_expected.to contain_webhook__listener('one').with('port' => 6969)
      is_expected.to contain_webhook__listener('two').with('port' => '6970', 'user' => 'deploy')
    end
  end

  context 'with a misspelt parameter of a listener' do
    let(:params) { { 'listeners' => { 'one' => { 'prot' => 6969 } } } }

    it { is_expected.to compile.and_raise_error(/no parameter named 'prot'/) }
  end

  context 'with an old systemd' do
    let(:facts) do
      { 'os' => { 'family' => 'RedHat', 'name' => 'Rocky', 'architecture' => 'x86_64', 'release' => { 'major' => '8' } } }
    end
    let(:params) { { 'listeners' => { 'one' => {} } } }

    it 'does not wait to be told that the listener is ready, which it would miss' do
      is_expected.to contain_file('/etc/systemd/system/puppet-webhook@one.service')
        .with('content' => /^Type=simple$/).without('content' => /NotifyAccess|WatchdogSec/)
    end
  end
end

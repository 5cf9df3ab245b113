# frozen_string_literal: true

RSpec.describe 'webhook::r10k' do
  let(:written) { YAML.safe_load(catalogue.resource('file', '/etc/puppet-webhook/r10k/routes.yaml')[:content]) }
  let(:service) { catalogue.resource('file', '/etc/systemd/system/puppet-webhook@r10k.service')[:content] }

  context 'with everything as it comes' do
    it { is_expected.to compile.with_all_deps }

    it 'serves this host only, one deployment at a time' do
      expect(written['listen']).to eq('address' => '127.0.0.1', 'port' => 6970)
      expect(written['routes'].keys).to eq(%w[r10k/environment r10k/module])
      expect(written['routes'].values.map { |route| route['concurrency'] }).to all(eq('group' => 'r10k'))
      expect(written['routes'].values).to all(satisfy { |route| !route.key?('auth') })
    end

    it 'runs as the owner of the code, and may write nothing else' do
      expect(service).to match(/^User=puppet$/).and match(/^NoNewPrivileges=yes$/)
      expect(service.scan(/^ReadWritePaths=-(.*)$/).flatten)
        .to eq(%w[/var/lib/puppet-webhook/r10k /etc/puppetlabs/code /opt/puppetlabs/puppet/cache/r10k])
    end
  end

  context 'for callers with a token' do
    let(:params) do
      {
        'bind_address' => '::', 'auth' => ['jenkins'],
        'options' => {
          'auth' => { 'jenkins' => { 'bearer' => { 'credential' => 'jenkins' } } },
          'credentials' => { 'jenkins' => 'swordfish' }
        }
      }
    end

    it 'asks every caller for it' do
      is_expected.to compile.with_all_deps
      expect(written['routes'].values).to all(include('auth' => ['jenkins']))
      expect(service).to match(/^LoadCredential=jenkins:/)
    end
  end
end

# frozen_string_literal: true

RSpec.describe 'webhook::calls' do
  it 'calls nothing unless told to' do
    expect(catalogue.resource_keys.map(&:first)).not_to include('Http')
    is_expected.to compile.with_all_deps
  end

  context 'with calls and defaults' do
    let(:params) do
      {
        'defaults' => { 'ensure' => 'get', 'fqdn' => 'one.example.com' },
        'calls' => {
          'kick' => {},
          'deploy' => { 'ensure' => 'post', 'data' => { 'retries' => 3 }, 'port' => 8080 },
          'kick the other' => { 'route' => 'kick', 'fqdn' => 'two.example.com' }
        }
      }
    end

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_http('kick').with('ensure' => 'get', 'fqdn' => 'one.example.com') }

    it 'lets a call have attributes of its own' do
      is_expected.to contain_http('deploy')
        .with('ensure' => 'post', 'fqdn' => 'one.example.com', 'data' => { 'retries' => 3 }, 'port' => 8080)
      is_expected.to contain_http('kick the other').with('route' => 'kick', 'fqdn' => 'two.example.com')
    end
  end

  context 'in a last run stage' do
    let(:pre_condition) { "stage { 'last': require => Stage['main'] }" }
    let(:params) { { 'stage' => 'last', 'calls' => { 'kick' => { 'fqdn' => 'one.example.com' } } } }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_class('webhook::calls').with('stage' => 'last') }
  end

  context 'with a call that is no hash' do
    let(:params) { { 'calls' => { 'kick' => 'get' } } }

    it { is_expected.to compile.and_raise_error(/expects a Hash value, got String/) }
  end

  context 'with an attribute that does not exist' do
    let(:params) { { 'calls' => { 'kick' => { 'fqdm' => 'one.example.com' } } } }

    it { is_expected.to compile.and_raise_error(/no parameter named 'fqdm'/) }
  end
end

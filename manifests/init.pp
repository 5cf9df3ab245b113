# @summary Installs the webhook listener, and what all listeners of a host have in common.
#
# `include webhook` installs the listener that this module brings with it, a user without privileges, and directories. What is
# served is said by `webhook::listener`, or in Hiera by `webhook::listeners`.
#
# @param listeners
#   Listeners by name, with the parameters of `webhook::listener`; from all levels of Hiera, merged.
# @param install_method
#   Where the listener comes from: `bundled`, the archive in this module; `npm`, the npm package; `none`, it is there already.
# @param source
#   Another archive instead of the one in this module (a path, or a `puppet:` or `https:` address), or with `npm` another package:
#   a version (`puppet-webhook@0.1.0`), a file or an address.
# @param source_checksum
#   SHA-256 of the archive, for one that comes over the network.
# @param node_method
#   Where Node.js comes from: `package`, the host's package manager; `bundled`, the archive in this module when it was built with
#   Node.js for the host's architecture; `none`, it is there already. The listener needs Node.js 22.18 or newer.
# @param node_package
#   The package that brings Node.js.
# @param node_ensure
#   Its version.
# @param node
#   The program itself.
# @param user
#   Whom listeners run as, unless they say otherwise.
# @param group
#   The group of that user; it may read configurations.
# @param manage_user
#   Whether Puppet makes user and group.
# @param install_directory
#   Where the program is put.
# @param command
#   Where operators find the command.
# @param config_directory
#   Where each listener has a directory with its `routes.yaml`.
# @param state_directory
#   Where each listener keeps its runs and their output.
# @param unit_directory
#   Where systemd reads units from.
# @param sudoers_directory
#   Where sudo reads rules from. `/etc/sudoers` has to include it, as it does wherever sudo comes from a package.
# @param manage_services
#   Whether Puppet starts and stops services. False for containers and images: everything is written, nothing is started.
# @param systemd_version
#   The host's systemd. Below 246 it is not told how listeners are, and below 247 there are no credentials.
#
# @example A listener with one route, as for load balancers that need new members
#   include webhook
#   webhook::listener { 'puppet':
#     port   => '6969',
#     routes => {
#       'kick_haproxy_app_internal' => {
#         'method'  => 'get',
#         'command' => "su - peadmin -c 'mco puppet runonce -F role=haproxy_app_internal'",
#       },
#     },
#   }
class webhook (
  Hash[String[1], Hash[String[1], Any]] $listeners = {},
  Enum['bundled', 'npm', 'none'] $install_method = 'bundled',
  Optional[String[1]] $source = undef,
  Optional[Pattern[/\A[0-9a-f]{64}\z/]] $source_checksum = undef,
  Enum['package', 'bundled', 'none'] $node_method = 'package',
  String[1] $node_package = 'nodejs',
  String[1] $node_ensure = 'installed',
  Optional[Webhook::Absolutepath] $node = undef,
  String[1] $user = 'puppet-webhook',
  String[1] $group = $user,
  Boolean $manage_user = true,
  Webhook::Absolutepath $install_directory = '/opt/puppet-webhook',
  Webhook::Absolutepath $command = '/usr/local/bin/puppet-webhook',
  Webhook::Absolutepath $config_directory = '/etc/puppet-webhook',
  Webhook::Absolutepath $state_directory = '/var/lib/puppet-webhook',
  Webhook::Absolutepath $unit_directory = '/etc/systemd/system',
  Webhook::Absolutepath $sudoers_directory = '/etc/sudoers.d',
  Boolean $manage_services = true,
  Integer[1] $systemd_version = 252,
) {
  contain webhook::install

  if $manage_user {
    group { $group:
      ensure => present,
      system => true,
    }
    user { $user:
      ensure     => present,
      system     => true,
      gid        => $group,
      home       => $state_directory,
      managehome => false,
      shell      => '/usr/sbin/nologin',
      comment    => 'puppet-webhook',
    }
  }

  file {
    default:
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    ;
    $config_directory: ;
    $state_directory: ;
  }

  if $manage_services {
    exec { 'webhook: systemctl daemon-reload':
      command     => 'systemctl daemon-reload',
      path        => ['/usr/bin', '/bin'],
      refreshonly => true,
    }
  }

  $listeners.each |String[1] $listener, Hash $parameters| {
    webhook::listener { $listener:
      * => $parameters,
    }
  }
}

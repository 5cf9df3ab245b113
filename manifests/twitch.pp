# @summary A listener that starts Puppet on its host: `GET /puppet/twitch`.
#
# It answers 202 when the Puppet run is on its way, 409 when one is under way already, and with `?async=false` 200 when it has
# ended. The listener runs as a user of its own, which may run exactly the three commands below by sudo.
#
# @param user
#   The user.
# @param group
#   Its group; the commands are allowed to the group.
# @param home
#   The user's home.
# @param managehome
#   Whether Puppet makes it.
# @param uid
#   The user's number.
# @param gid
#   The group's number.
# @param bind
#   Where to listen.
# @param port
#   The port.
# @param run_dir
#   Where runs and their output are kept.
# @param source
#   Where the listener comes from; as `webhook::source`, which it sets when this class is the first to need it.
# @param service
#   The name of the listener; the unit is `puppet-webhook@<service>`.
# @param puppet
#   The program `puppet`; the one of Puppet's own packages, or of the distribution.
# @param lockfile
#   Puppet's `agent_catalog_run_lockfile`: as long as a Puppet run has it, callers get 409. The user has to be able to read it.
# @param auth
#   Who may call, by names from `options['auth']`; by itself whoever reaches the port.
# @param options
#   Further parameters of `webhook::listener`.
#
# @example With everything as it comes
#   include webhook::twitch
class webhook::twitch (
  Pattern[/\A[a-z_][a-z0-9_-]*\z/] $user = 'twitch',
  Pattern[/\A[a-z_][a-z0-9_-]*\z/] $group = $user,
  Webhook::Absolutepath $home = '/home/twitch',
  Boolean $managehome = true,
  Variant[Integer[1], Pattern[/\A[1-9][0-9]*\z/]] $uid = 2023,
  Variant[Integer[1], Pattern[/\A[1-9][0-9]*\z/]] $gid = $uid,
  Variant[String[1], Array[String[1], 1]] $bind = '0.0.0.0',
  Webhook::Port $port = 2023,
  Optional[Webhook::Absolutepath] $run_dir = undef,
  Optional[String[1]] $source = undef,
  String[1] $service = 'twitch',
  Optional[Webhook::Absolutepath] $puppet = undef,
  Optional[Webhook::Absolutepath] $lockfile = undef,
  Variant[Enum['none'], Array[String[1], 1]] $auth = 'none',
  Hash[String[1], Any] $options = {},
) {
  if $source {
    class { 'webhook':
      source => $source,
    }
  } else {
    include webhook
  }

  $own = $facts['aio_agent_version'] =~ NotUndef
  $program = [$puppet, $own ? { true => '/opt/puppetlabs/bin/puppet', default => '/usr/bin/puppet' }].filter |$each| { $each }[0]
  $state = $own ? {
    true    => '/opt/puppetlabs/puppet/cache/state',
    default => '/var/cache/puppet/state',
  }
  $lock = [$lockfile, "${state}/agent_catalog_run.lock"].filter |$each| { $each }[0]

  group { $group:
    ensure => present,
    gid    => $gid,
  }
  user { $user:
    ensure     => present,
    uid        => $uid,
    gid        => $group,
    home       => $home,
    managehome => $managehome,
  }

  webhook::sudo { $user:
    user     => "%${group}",
    commands => [
      "${program} config print agent_catalog_run_lockfile",
      "${program} agent --onetime",
      "${program} agent --onetime --no-daemonize",
    ],
  }

  $text = { 'Content-Type' => 'text/plain; charset=utf-8' }
  webhook::listener { $service:
    user            => $user,
    group           => $group,
    bind_address    => $bind,
    port            => $port,
    state_directory => $run_dir,
    sandbox         => 'sudo',
    # Puppet may restart this very listener; its Puppet run is to come to an end first.
    drain           => 1800,
    routes          => {
      'puppet/twitch' => {
        'description' => 'Starts Puppet on this host',
        'method'      => ['get', 'post'],
        'auth'        => $auth,
        'command'     => ['sudo', '-n', $program, 'agent', '--onetime', '--no-daemonize'],
        'timeout'     => '1h',
        'concurrency' => { 'when_busy' => 'reject', 'lockfile' => $lock },
        'respond'     => {
          'accepted'  => { 'status' => 202, 'body' => 'Triggered puppet run', 'headers' => $text },
          'succeeded' => { 'status' => 200, 'body' => 'Puppet run complete', 'headers' => $text },
          'busy'      => { 'status' => 409, 'body' => 'Puppet already running', 'headers' => $text },
        },
      },
    },
    require         => User[$user],
    *               => $options,
  }
}

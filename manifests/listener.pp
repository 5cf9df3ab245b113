# @summary A listener: its routes, its own directories and its own unit, `puppet-webhook@<title>`.
#
# The parameters are those of the listener's `routes.yaml`, beside what systemd has to know. The file is checked by the listener's
# own `check`, with its secrets, before it replaces the old one; it is then taken up without a restart. What the listener cannot
# take up while it runs (where it listens, its credentials, its unit) restarts it, and callers wait meanwhile.
#
# A text may be `Sensitive` wherever it stands. It is written into `routes.yaml`, which only root and the listener's group may
# read, and is shown nowhere. Better are `credentials`, which only root may read, or files of your own (`{ 'file' => ... }`).
#
# @param ensure
#   Whether the listener is there. When it goes, its state directory stays.
# @param routes
#   What is served: the path of each route, with what it takes and runs.
# @param bind_address
#   Where to listen: one or several of IPv4, IPv6 (`::` is every address, IPv4 too) and `unix:/path`.
# @param port
#   The port.
# @param ssl_enable
#   Whether to serve https, with `cert_path` and `key_path`.
# @param cert_path
#   The certificate and its chain, in PEM.
# @param key_path
#   Its private key, in PEM. The listener's user has to be able to read it.
# @param rack_env
#   Has no effect. Older manifests give it.
# @param listen
#   Further keys of the section `listen`; they win over the parameters above.
# @param auth
#   The section `auth`: ways to know who calls, by names of your own.
# @param admin
#   The section `admin`: who may use the endpoints below `/-/`.
# @param metrics
#   The section `metrics`.
# @param log
#   The section `log`.
# @param defaults
#   The section `defaults`: what routes have that do not say so themselves.
# @param include
#   The section `include`: further files with routes, relative to the listener's directory.
# @param credentials
#   Secrets by name, for `{ 'credential' => name }`: handed to the listener by systemd, in files that only root may read.
# @param environment
#   Variables for the listener, for `{ 'env' => name }`, in a file that only root may read. Commands do not see them.
# @param user
#   Whom the listener and its commands run as.
# @param group
#   The group of that user.
# @param state_directory
#   Where the listener keeps its runs and their output.
# @param sudo
#   What commands may run as another user by sudo, as `webhook::sudo` takes it.
# @param sandbox
#   What systemd keeps the listener and its commands from. `strict`: they write to the state directory and `writable_paths` only
#   and gain no privileges. `sudo`: they may use sudo; by itself when `sudo` is given. `none`: nothing.
# @param writable_paths
#   Directories that commands may write to in the strict sandbox.
# @param drain
#   Seconds that runs may still take when the listener is stopped.
# @param socket_activation
#   Whether systemd holds the sockets.
# @param service_options
#   Further lines of the unit's section `[Service]`, such as `{ 'MemoryMax' => '1G' }`.
#
# @example Deployments by r10k for whoever knows the token
#   webhook::listener { 'deploy':
#     bind_address   => '127.0.0.1',
#     port           => 6970,
#     user           => 'puppet',
#     group          => 'puppet',
#     writable_paths => ['/etc/puppetlabs/code', '/opt/puppetlabs/r10k'],
#     routes         => {
#       'environments/:environment' => {
#         'command' => ['r10k', 'deploy', 'environment', '{{environment}}'],
#       },
#     },
#   }
define webhook::listener (
  Enum['present', 'absent'] $ensure = 'present',
  Webhook::Routes $routes = {},
  Variant[String[1], Array[String[1], 1]] $bind_address = '0.0.0.0',
  Optional[Webhook::Port] $port = undef,
  Boolean $ssl_enable = false,
  Optional[Webhook::Absolutepath] $cert_path = undef,
  Optional[Webhook::Absolutepath] $key_path = undef,
  String $rack_env = 'production',
  Webhook::Listen $listen = {},
  Optional[Webhook::Auth] $auth = undef,
  Optional[Webhook::Admin] $admin = undef,
  Optional[Webhook::Metrics] $metrics = undef,
  Optional[Webhook::Log] $log = undef,
  Optional[Webhook::Defaults] $defaults = undef,
  Optional[Webhook::Include] $include = undef,
  Hash[Pattern[/\A[A-Za-z0-9][A-Za-z0-9_.-]*\z/], Variant[String[1], Sensitive[String[1]]]] $credentials = {},
  Hash[Pattern[/\A[A-Za-z_][A-Za-z0-9_]*\z/], Variant[Pattern[/\A[^\n']*\z/], Sensitive[Pattern[/\A[^\n']*\z/]]]] $environment = {},
  Optional[String[1]] $user = undef,
  Optional[String[1]] $group = undef,
  Optional[Webhook::Absolutepath] $state_directory = undef,
  Array[Webhook::Sudocommand] $sudo = [],
  Optional[Enum['strict', 'sudo', 'none']] $sandbox = undef,
  Array[Webhook::Absolutepath] $writable_paths = [],
  Integer[1] $drain = 60,
  Boolean $socket_activation = true,
  Hash[Pattern[/\A[A-Z][A-Za-z0-9]*\z/], Variant[String, Array[String]]] $service_options = {},
) {
  if $title !~ /\A[A-Za-z0-9][A-Za-z0-9_-]*\z/ {
    fail("webhook::listener[${title}]: the title is part of the names of files and units: letters, digits, - and _")
  }
  include webhook

  $as_user = [$user, $webhook::user].filter |$each| { $each }[0]
  $as_group = [$group, $user, $webhook::group].filter |$each| { $each }[0]
  $directory = "${webhook::config_directory}/${title}"
  $config = "${directory}/routes.yaml"
  $credential_directory = "${directory}/credentials"
  $environment_file = "${directory}/environment"
  $unit = "puppet-webhook@${title}"
  $state = $state_directory ? {
    undef   => "${webhook::state_directory}/${title}",
    default => $state_directory,
  }
  $present = $ensure == 'present'

  # ---- routes.yaml

  if $ssl_enable and !($cert_path and $key_path) {
    fail("webhook::listener[${title}]: ssl_enable needs cert_path and key_path")
  }
  $tls = $ssl_enable ? {
    true    => { 'tls' => { 'cert' => $cert_path, 'key' => $key_path } },
    default => {},
  }
  $number = $port ? {
    undef   => 6969,
    default => Integer($port),
  }
  $listens = webhook::unwrap({ 'address' => $bind_address, 'port' => $number } + $tls + $listen)
  $addresses = [$listens['address']].flatten

  # Manifests from before routes could say who may call mean anybody. As soon as one of them says it, all have to.
  $says_who = ['auth', 'source', 'preset']
  $nobody_says = [$defaults, *$routes.values].all |$given| { !$given or ($says_who - $given.keys) == $says_who }
  $reachable = $addresses.any |$address| { $address !~ /\A(127\.|::1\z|unix:)/ }
  if $present and $reachable and $nobody_says and !$auth and !$routes.empty {
    warning("webhook::listener[${title}]: anybody may call its routes. Give them an auth, if only \"none\", to say that it is meant")
    $callers = { 'auth' => 'none' }
  } else {
    $callers = undef
  }
  $sections = {
    'listen'   => $listens,
    'auth'     => $auth,
    'admin'    => $admin,
    'metrics'  => $metrics,
    'log'      => $log,
    'include'  => $include,
    'defaults' => [$defaults, $callers].filter |$each| { $each }.reduce |$all, $each| { $all + $each },
    'routes'   => $routes,
  }
  $yaml = Sensitive("# Managed by Puppet, webhook::listener[${title}].\n${webhook::yaml(webhook::unwrap($sections))}")

  # ---- Files

  $directory_ensure = $present ? {
    true    => 'directory',
    default => 'absent',
  }
  $file_ensure = $present ? {
    true    => 'file',
    default => 'absent',
  }
  file {
    default:
      ensure => $directory_ensure,
      owner  => 'root',
      force  => true,
    ;
    $directory:
      group => $as_group,
      mode  => '0750',
    ;
    $credential_directory:
      group   => 'root',
      mode    => '0700',
      recurse => true,
      purge   => true,
    ;
  }
  if $present {
    file { $state:
      ensure => directory,
      owner  => $as_user,
      group  => $as_group,
      mode   => '0700',
    }
  }
  $secrets = $credentials.keys.map |$name| { "${credential_directory}/${name}" }
  $credentials.each |$name, $secret| {
    file { "${credential_directory}/${name}":
      ensure    => $file_ensure,
      owner     => 'root',
      group     => 'root',
      mode      => '0600',
      show_diff => false,
      content   => Sensitive(webhook::unwrap($secret)),
    }
  }
  $variables = $environment.map |$name, $value| { "${name}='${webhook::unwrap($value)}'\n" }
  $environment_ensure = $environment.empty ? {
    true    => 'absent',
    default => $file_ensure,
  }
  file { $environment_file:
    ensure    => $environment_ensure,
    owner     => 'root',
    group     => 'root',
    mode      => '0600',
    show_diff => false,
    content   => Sensitive($variables.join('')),
  }

  # What systemd will hand to the listener is handed to `check`, so that a secret that is not there is noticed now, and one that
  # only the service has is not missed.
  $exports = $environment.empty ? {
    true    => '',
    default => "set -a; . ${environment_file}; ",
  }
  $check = "${exports}CREDENTIALS_DIRECTORY=${credential_directory} exec ${webhook::command} check --config \"%\""
  file { $config:
    ensure       => $file_ensure,
    owner        => 'root',
    group        => $as_group,
    mode         => '0640',
    show_diff    => false,
    content      => $yaml,
    validate_cmd => "/bin/sh -c '${check}'",
    require      => [Class['webhook::install'], File[$environment_file, $credential_directory], File[$secrets]],
  }

  # ---- Units

  $streams = $addresses.map |$address| {
    $address ? {
      /\Aunix:/ => $address.regsubst('\Aunix:', ''),
      /:/       => "[${address}]:${listens['port']}",
      default   => "${address}:${listens['port']}",
    }
  }
  $holds = $present and $socket_activation and $listens['port'] != 0
  $kept_from = $sandbox ? {
    undef   => $sudo.empty ? { true => 'strict', default => 'sudo' },
    default => $sandbox,
  }
  if !$credentials.empty and $webhook::systemd_version < 247 {
    fail("webhook::listener[${title}]: systemd ${webhook::systemd_version} knows no credentials; name a file instead")
  }
  # Of the section listen, this is what a running listener does not take up.
  $restart_for = sha256("${webhook::yaml($listens)}${variables.join('')}").regsubst('\A(.{16}).*', '\1')
  file { "${webhook::unit_directory}/${unit}.service":
    ensure  => $file_ensure,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('webhook/service.epp', {
        'title'            => $title,
        'unit'             => $unit,
        'command'          => $webhook::command,
        'config'           => $config,
        'state'            => $state,
        'user'             => $as_user,
        'group'            => $as_group,
        'drain'            => $drain,
        'notifies'         => $webhook::systemd_version >= 246,
        'restart_for'      => $restart_for,
        'credentials'      => Hash($credentials.map |$name, $_| { [$name, "${credential_directory}/${name}"] }),
        'environment_file' => $environment.empty ? { true => undef, default => $environment_file },
        'sandbox'          => $kept_from,
        'writable_paths'   => [$state] + $writable_paths,
        'privileged_port'  => !$holds and $listens['port'] =~ Integer[1, 1023],
        'service_options'  => $service_options,
    }),
  }
  $socket_ensure = $holds ? {
    true    => 'file',
    default => 'absent',
  }
  file { "${webhook::unit_directory}/${unit}.socket":
    ensure  => $socket_ensure,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('webhook/socket.epp', {
        'title'     => $title,
        'unit'      => $unit,
        'streams'   => $streams,
        'ipv6_only' => '::' in $addresses and '0.0.0.0' in $addresses,
        'user'      => $as_user,
        'group'     => $as_group,
    }),
  }

  # ---- Services

  if $webhook::manage_services {
    $running = { true => 'running', false => 'stopped' }
    $path = ['/usr/bin', '/bin']
    # A Puppet run that the listener itself has started would wait for the listener to stop, which waits for that run.
    $restart = "if grep -qF '/${unit}.service' /proc/self/cgroup; then exec systemctl --no-block restart"
    service { "${unit}.socket":
      ensure  => $running[$holds],
      enable  => $holds,
      # A socket cannot be opened under a listener that has opened it.
      start   => "systemctl stop ${unit}.service; exec systemctl start ${unit}.socket",
      restart => "${restart} ${unit}.socket ${unit}.service; fi; exec systemctl restart ${unit}.socket ${unit}.service",
    }
    service { "${unit}.service":
      ensure  => $running[$present],
      enable  => $present,
      restart => "${restart} ${unit}.service; fi; exec systemctl restart ${unit}.service",
    }
    if $present {
      exec { "webhook: reload ${title}":
        command     => "systemctl reload ${unit}.service",
        onlyif      => "systemctl --quiet is-active ${unit}.service",
        path        => $path,
        refreshonly => true,
        subscribe   => File[$config],
        require     => Service["${unit}.service"],
      }
      File["${webhook::unit_directory}/${unit}.service"] ~> Exec['webhook: systemctl daemon-reload'] -> Service["${unit}.service"]
      File["${webhook::unit_directory}/${unit}.service"] ~> Service["${unit}.service"]
      File[$environment_file, $credential_directory] ~> Service["${unit}.service"]
      File[$secrets] ~> Service["${unit}.service"]
      File[$config, $state] -> Service["${unit}.service"]
      Class['webhook::install'] ~> Service["${unit}.service"]
    } else {
      Service["${unit}.service"] -> File["${webhook::unit_directory}/${unit}.service"] ~> Exec['webhook: systemctl daemon-reload']
    }
    if $holds {
      File["${webhook::unit_directory}/${unit}.socket"] ~> Exec['webhook: systemctl daemon-reload'] -> Service["${unit}.socket"]
      File["${webhook::unit_directory}/${unit}.socket"] ~> Service["${unit}.socket"] -> Service["${unit}.service"]
    } else {
      Service["${unit}.socket"] -> File["${webhook::unit_directory}/${unit}.socket"] ~> Exec['webhook: systemctl daemon-reload']
      Service["${unit}.socket"] -> Service["${unit}.service"]
    }
  }

  unless $sudo.empty {
    webhook::sudo { "puppet-webhook-${title}":
      ensure   => $file_ensure,
      user     => $as_user,
      commands => $sudo,
    }
  }
}

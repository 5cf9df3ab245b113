# @summary Allows a user or group to run exactly the commands named, as another user and without a password.
#
# The rules are checked by visudo before they replace the old ones: a faulty file in `sudoers.d` would lock everybody out of sudo.
#
# @param user
#   Who may: a user, or a group as `%group`.
# @param commands
#   What: programs by their path, with their arguments.
# @param ensure
#   Whether the rules are there.
#
# @example The commands of mCollective, as their own user
#   webhook::sudo { 'mco':
#     user     => 'puppet-webhook',
#     commands => [
#       { 'command' => '/usr/bin/mco puppet runonce -F role=haproxy_app_internal', 'user' => 'peadmin' },
#     ],
#   }
define webhook::sudo (
  Pattern[/\A%?[A-Za-z_][A-Za-z0-9_-]*\z/] $user,
  Array[Webhook::Sudocommand, 1] $commands,
  Enum['file', 'absent'] $ensure = 'file',
) {
  if $title !~ /\A[A-Za-z0-9][A-Za-z0-9_-]*\z/ {
    fail("webhook::sudo[${title}]: the title is the name of a file, of letters, digits, - and _, since sudo skips others")
  }
  include webhook

  $rules = $commands.map |$given| {
    $rule = $given ? {
      Hash    => { 'user' => 'root' } + $given,
      default => { 'user' => 'root', 'command' => $given },
    }
    # In arguments these have a meaning of their own.
    $escaped = $rule['command'].regsubst('[,:=#\\\\]', '\\\\\\0', 'G')
    # A program that stands alone would be allowed with any arguments.
    $exact = $escaped ? {
      /\s/    => $escaped,
      default => "${escaped} \"\"",
    }
    "${user} ALL = (${rule['user']}) NOPASSWD: ${exact}\n"
  }
  $head = "# Managed by Puppet, webhook::sudo[${title}].\n# A service has no terminal.\nDefaults:${user} !requiretty\n"

  file { "${webhook::sudoers_directory}/${title}":
    ensure       => $ensure,
    owner        => 'root',
    group        => 'root',
    mode         => '0440',
    content      => "${head}${rules.join('')}",
    validate_cmd => '/usr/sbin/visudo -c -f %',
  }
}

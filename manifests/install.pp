# @summary Puts the listener and its Node.js on the host.
#
# @api private
class webhook::install {
  $directory = $webhook::install_directory
  $path = ['/usr/local/bin', '/usr/bin', '/bin']

  file { $directory:
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }

  case $webhook::node_method {
    'package': {
      package { $webhook::node_package:
        ensure => $webhook::node_ensure,
        before => Exec['webhook: Node.js is new enough'],
      }
      $usual = '/usr/bin/node'
    }
    'bundled': {
      $architecture = $facts['os']['architecture'] ? {
        /\A(amd64|x86_64)\z/  => 'x64',
        /\A(arm64|aarch64)\z/ => 'arm64',
        default               => $facts['os']['architecture'],
      }
      $archive = "node-linux-${architecture}.tar.gz"
      unless find_file("webhook/${archive}") {
        $build = '"npm run build:module -- --node" on such a host'
        fail("webhook: this copy of the module has no Node.js for ${architecture}: ${build} builds one; or set webhook::node_method")
      }
      webhook::archive { "${directory}/node":
        source => "puppet:///modules/webhook/${archive}",
        before => Exec['webhook: Node.js is new enough'],
      }
      $usual = "${directory}/node/bin/node"
    }
    default: {
      $usual = '/usr/bin/node'
    }
  }
  $node = $webhook::node ? {
    undef   => $usual,
    default => $webhook::node,
  }

  # Debian 12 has Node.js 18, on which the listener would end with a message about modules that do not exist.
  $found = "\$(${node} --version 2>&1 | head -n 1)"
  exec { 'webhook: Node.js is new enough':
    command  => "echo \"${node}: ${found}; the listener needs Node.js 22.18 or newer, see webhook::node_method\" >&2; exit 1",
    unless   => "${node} -e 'const [a, b] = process.versions.node.split(\".\"); process.exit(a * 1000 + +b < 22018 ? 1 : 0)'",
    path     => $path,
    provider => shell,
  }

  case $webhook::install_method {
    'bundled': {
      if $webhook::source == undef and !find_file('webhook/puppet-webhook.tar.gz') {
        $build = '"npm run build:module" builds one'
        fail("webhook: this copy of the module has no listener in it: ${build} that has; or set webhook::source or webhook::install_method")
      }
      $source = $webhook::source ? {
        undef   => 'puppet:///modules/webhook/puppet-webhook.tar.gz',
        default => $webhook::source,
      }
      webhook::archive { "${directory}/puppet-webhook":
        source   => $source,
        checksum => $webhook::source_checksum,
        before   => File[$webhook::command],
      }
      $main = "${directory}/puppet-webhook/dist/main.cjs"
    }
    'npm': {
      $package = $webhook::source ? {
        undef   => 'puppet-webhook',
        default => $webhook::source,
      }
      $prefix = "${directory}/npm"
      exec { "webhook: npm install ${package}":
        command  => "npm install --global --no-fund --no-audit --prefix ${prefix} '${package}' && echo '${package}' > ${prefix}/.installed",
        unless   => "grep -qxF '${package}' ${prefix}/.installed",
        path     => $path,
        provider => shell,
        timeout  => 600,
        require  => [File[$directory], Exec['webhook: Node.js is new enough']],
        before   => File[$webhook::command],
      }
      $main = "${prefix}/lib/node_modules/puppet-webhook/dist/main.cjs"
    }
    default: {
      $main = undef
    }
  }

  if $main {
    file { $webhook::command:
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0755',
      content => "#!/bin/sh\n# Managed by Puppet, class webhook.\nexec ${node} ${main} \"\$@\"\n",
      require => Exec['webhook: Node.js is new enough'],
    }
  }
}

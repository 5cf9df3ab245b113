# @summary A listener that deploys environments and modules with r10k.
#
# `POST /r10k/environment` with `{"environment": "production"}` deploys an environment and its modules, `POST /r10k/module` with
# `{"module": "apache"}` a module in all environments that have it. Deployments wait for each other, since two at once damage
# r10k's cache. Commands run as the owner of the code, without root.
#
# @param auth
#   Who may call: names from `options['auth']`, or `none` for whoever reaches the port. Without it this host alone may, and the
#   listener listens on nothing else.
# @param user
#   The user that owns environments and r10k's cache, as deployments by hand use it too.
# @param group
#   Its group.
# @param bind_address
#   Where to listen.
# @param port
#   The port.
# @param r10k
#   The program.
# @param writable_paths
#   Where r10k writes: environments and cache.
# @param routes
#   Further routes of the listener, or other ones in place of these.
# @param options
#   Further parameters of `webhook::listener`.
#
# @example Deployments for whoever knows a token
#   class { 'webhook::r10k':
#     bind_address => '::',
#     auth         => ['jenkins'],
#     options      => {
#       'auth'        => { 'jenkins' => { 'bearer' => { 'credential' => 'jenkins' } } },
#       'credentials' => { 'jenkins' => Sensitive('swordfish') },
#     },
#   }
class webhook::r10k (
  Optional[Variant[Enum['none'], Array[String[1], 1]]] $auth = undef,
  String[1] $user = 'puppet',
  String[1] $group = $user,
  Variant[String[1], Array[String[1], 1]] $bind_address = '127.0.0.1',
  Webhook::Port $port = 6970,
  Webhook::Absolutepath $r10k = '/opt/puppetlabs/puppet/bin/r10k',
  Array[Webhook::Absolutepath] $writable_paths = ['/etc/puppetlabs/code', '/opt/puppetlabs/puppet/cache/r10k'],
  Hash[String[1], Hash] $routes = {},
  Hash[String[1], Any] $options = {},
) {
  $shared = {
    'auth'        => $auth,
    'timeout'     => '30m',
    'concurrency' => { 'group' => 'r10k' },
  }
  $deployments = {
    'r10k/environment' => $shared + {
      'description' => 'Deploys an environment and its modules',
      # r10k makes environments of branches, and of a branch's name only letters, digits and _ are left.
      'params'      => { 'environment' => { 'required' => true, 'pattern' => '\w+' } },
      'command'     => [$r10k, 'deploy', 'environment', '{{environment}}', '--modules', '--verbose', 'info'],
    },
    'r10k/module'      => $shared + {
      'description' => 'Deploys a module in all environments that have it',
      'params'      => { 'module' => { 'required' => true, 'pattern' => '\w+' } },
      'command'     => [$r10k, 'deploy', 'module', '{{module}}', '--verbose', 'info'],
    },
  }
  webhook::listener { 'r10k':
    user           => $user,
    group          => $group,
    bind_address   => $bind_address,
    port           => $port,
    writable_paths => $writable_paths,
    routes         => $deployments + $routes,
    *              => $options,
  }
}

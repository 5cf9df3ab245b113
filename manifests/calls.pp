# @summary Calls routes that Hiera or another class names, each with an `http` resource.
#
# A resource cannot be put into a run stage, only a class can: this one saves writing a class for each set of calls that is to
# be sent at the end of a Puppet run. It suits Hiera as well, where roles or environments differ in what they call.
#
# @param calls
#   What to call: the title of each `http` resource, which is the route unless `route` is given, with its attributes.
# @param defaults
#   Attributes for every call that does not give them itself.
#
# @example Two calls when everything else is done
#   stage { 'last':
#     require => Stage['main'],
#   }
#   class { 'webhook::calls':
#     stage    => 'last',
#     defaults => { 'fqdn' => 'my.puppetmaster.com', 'ensure' => 'get' },
#     calls    => {
#       'kick_haproxy_app_internal' => {},
#       'kick_haproxy_app_external' => { 'fqdn' => 'my.other-puppetmaster.com' },
#     },
#   }
class webhook::calls (
  Hash[String[1], Hash[String[1], Any]] $calls = {},
  Hash[String[1], Any] $defaults = {},
) {
  $calls.each |String[1] $call, Hash $attributes| {
    http { $call:
      * => $defaults + $attributes,
    }
  }
}

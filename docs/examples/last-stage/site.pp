# The listener hears of this node when everything else is done: only then is it worth a load balancer's while.
#
# puppet apply --libdir "$PWD/ruby-type/lib" docs/examples/last-stage/site.pp

class profiles::update_loadbalancer {
  http { 'kick_haproxy_app_internal':
    ensure => get,
    fqdn   => '127.0.0.1',
    port   => 6969,
  }
}

class roles::haproxy_member_backend_service {
  stage { 'last':
    require => Stage['main'],
  }

  # What makes the node a member of the load balancer stands here.
  notify { 'the node is built': }

  class { 'profiles::update_loadbalancer':
    stage => 'last',
  }
}

include roles::haproxy_member_backend_service

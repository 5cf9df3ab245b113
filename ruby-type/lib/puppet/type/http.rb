# frozen_string_literal: true

# Without it `puppet resource` and `puppet describe` stop at "uninitialized constant Puppet::Parameter::Boolean".
require 'puppet/parameter/boolean'

Puppet::Type.newtype(:http) do
  @doc = <<-DOC
    Sends an HTTP request while the catalog is applied: calls a route of a
    puppet-webhook listener, or any other HTTP API.

    A request leaves nothing on this host that could be in or out of sync,
    so an `http` resource is sent in **every** Puppet run, like an `exec`,
    and each time counts as a change. With `refreshonly => true` it is
    sent only when a resource that notifies it has changed. In noop mode
    nothing is sent; the report says which request would have been.

    The resource fails, and whatever requires it is skipped, when the
    listener cannot be reached, when it does not answer in time, and when
    it answers with a status that `returns` does not list. The reason it
    gives is part of the message.

    The request goes through Puppet's own HTTP client: its proxy settings
    and, with `tls => puppet`, this host's certificate, CA and CRLs are
    those of the Puppet agent.

    Values wrapped in `Sensitive`, at any depth of `data` and `header`,
    are sent in clear and shown masked, also where the listener's answer
    repeats them.

    @example Call a route
      # GET http://my.puppetmaster.com:6969/kick_haproxy_app_internal
      http { 'kick_haproxy_app_internal':
        ensure => get,
        fqdn   => 'my.puppetmaster.com',
      }

    @example Send data after a change, and fail when the run fails
      http { 'deploy':
        ensure      => post,
        fqdn        => 'my.puppetmaster.com',
        tls         => puppet,
        data        => { 'role' => 'billing', 'version' => '2.1.4' },
        wait        => true,
        refreshonly => true,
        subscribe   => Package['billing'],
      }
  DOC

  # What `value` holds without the Sensitive around it, at any depth. For checks and for sending, never for messages.
  def self.reveal(value)
    case value
    when Puppet::Pops::Types::PSensitiveType::Sensitive then reveal(value.unwrap)
    when Hash then value.to_h { |key, item| [reveal(key), reveal(item)] }
    when Array then value.map { |item| reveal(item) }
    else value
    end
  end

  # `puppet resource http` and purging ask for what is there.
  def self.instances
    raise Puppet::Error, 'http resources are requests, which leave nothing on a host that could be listed. To send one: ' \
                         'puppet resource http ROUTE ensure=get fqdn=HOST'
  end

  # Not `ensurable`: that would report every request as "created".
  newproperty(:ensure, idempotent: false) do
    desc <<-DOC
      The method of the request: `get`, `post`, `put`, `patch`, `delete` or
      `head`. Default: `post` when there is `data`, else `get`.
    DOC

    newvalues(:get, :post, :put, :patch, :delete, :head)
    defaultto { @resource[:data].nil? ? :get : :post }

    # Runs in noop mode too, so it must not send anything.
    def retrieve
      :absent
    end

    def insync?(_is)
      resource.refreshonly?
    end

    def sync
      @sent = provider.deliver(should)
    end

    # For noop mode, which has no other place to say what would be sent. In a failure it would repeat the message's own words.
    def should_to_s(value)
      noop ? "'#{provider.summary(value)}'" : super
    end

    def change_to_s(_is, _should)
      @sent
    end
  end

  newparam(:name, namevar: true) do
    desc <<-DOC
      The title: any text that is unique among the `http` resources of the
      catalog. It is the route too, unless `route` is given.
    DOC
  end

  newparam(:route) do
    desc <<-DOC
      The path to call, with or without a leading slash, and its query
      string if it needs one. Default: the title. Give it when the same
      route is called more than once in a catalog, such as on two hosts.
      Example: `'deploy?environment=qa'`.
    DOC

    defaultto { @resource[:name] }

    validate do |value|
      route = resource.class.reveal(value)
      raise ArgumentError, 'route must be a string' unless route.is_a?(String)
      raise ArgumentError, 'route must not contain control characters' if route =~ /[[:cntrl:]]/
      raise ArgumentError, 'route is a path: give the host as fqdn and https as tls' if route =~ %r{\A[a-z]+://}i
      raise ArgumentError, 'route: % must be followed by two hexadecimal digits' if route =~ /%(?!\h\h)/
    end
  end

  newparam(:fqdn) do
    desc <<-DOC
      The host to call: its name or its IPv4 address. Required. The name
      must be in the host's certificate when `tls` is used.
    DOC

    validate do |value|
      next if value.is_a?(String) && value =~ /\A[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_.])?\z/i

      remedy = if value.to_s =~ /\A\[?[0-9a-f]*:[0-9a-f:.]+\]?\z/i
                 "Puppet's HTTP client cannot call an IPv6 address, only a name that has one"
               else
                 'it is a host name or an IPv4 address alone; port, route and tls are attributes of their own'
               end
      raise ArgumentError, "fqdn #{value.inspect}: #{remedy}"
    end
  end

  newparam(:port) do
    desc <<-DOC
      The TCP port to call, 1 to 65535, as a number or a string. Default:
      6969, where a listener serves unless told otherwise.
    DOC

    defaultto 6969

    validate do |value|
      next if value.to_s =~ /\A\d{1,5}\z/ && value.to_i.between?(1, 65_535)

      raise ArgumentError, "port #{value.inspect}: must be a whole number from 1 to 65535"
    end

    munge { |value| Integer(value.to_s, 10) }
  end

  newparam(:data) do
    desc <<-DOC
      What to send as the body: a hash or an array as JSON, numbers,
      booleans and `undef` (null) keeping their type, or a string as it is.
      Default: no body. Example: `{ 'role' => $facts['role'], 'token' =>
      Sensitive($token) }`.
    DOC

    validate do |value|
      next if [Hash, Array, String].include?(resource.class.reveal(value).class)

      raise ArgumentError, 'data must be a hash, an array or a string'
    end
  end

  newparam(:header) do
    desc <<-DOC
      The content type of `data` as a string, or a hash of header names and
      values. Default: `application/json` for the content type when there is
      `data`, which a hash may override. Example: `{ 'X-Token' =>
      Sensitive($token) }`.
    DOC

    # Set by the HTTP client from what it really sends; another value would break the message's framing.
    framing = %w[connection content-length transfer-encoding]

    validate do |value|
      header = resource.class.reveal(value)
      header = { 'Content-Type' => header } if header.is_a?(String)
      raise ArgumentError, 'header must be a content type or a hash of headers' unless header.is_a?(Hash)

      header.each do |name, text|
        raise ArgumentError, "header #{name.inspect}: not a header name" unless name.to_s =~ /\A[!#$%&'*+.^_`|~0-9a-z-]+\z/i
        raise ArgumentError, "header #{name.inspect} is set by Puppet's HTTP client" if framing.include?(name.to_s.downcase)
        next if text.is_a?(Integer) || text.is_a?(Puppet::Pops::Evaluator::DeferredValue)
        next if text.is_a?(String) && text !~ /[\r\n\0]/

        raise ArgumentError, "header #{name.inspect}: its value must be one line of text or a whole number"
      end
    end
  end

  newparam(:tls) do
    desc <<-DOC
      Whether and how to use https:

      * `false` (default): plain http.
      * `puppet`: the listener's certificate must be from Puppet's CA and
        not be revoked; this host shows its own certificate.
      * `system`: the CAs of the operating system (or of the puppet-agent
        package) and Puppet's CA are trusted. Puppet's HTTP client shows
        this host's certificate here too if the other side asks for one.
      * a hash with `ca`, and `cert` and `key` if a client certificate is
        wanted: absolute paths of PEM files. Only the CAs in `ca` are
        trusted, the key must not have a passphrase, and CRLs are not
        checked. The files are read when the request is sent; `file`
        resources that manage them are required automatically.
    DOC

    defaultto false

    validate do |value|
      next if [false, 'false', 'puppet', 'system'].include?(value.is_a?(Symbol) ? value.to_s : value)

      unless value.is_a?(Hash)
        raise ArgumentError, "tls #{value.inspect}: must be false, puppet, system, or a hash with ca, cert and key"
      end

      unknown = value.keys - %w[ca cert key]
      raise ArgumentError, "tls: unknown key #{unknown.first.inspect}, known are ca, cert and key" unless unknown.empty?
      raise ArgumentError, 'tls: ca is missing, the file with the CAs to trust' unless value['ca']
      raise ArgumentError, 'tls: cert and key go together' unless value.key?('cert') == value.key?('key')

      value.each do |key, path|
        next if path.is_a?(String) && Puppet::Util.absolute_path?(path)

        raise ArgumentError, "tls: #{key} must be an absolute path, not #{path.inspect}"
      end
    end

    munge { |value| value.is_a?(Hash) ? value : { 'puppet' => :puppet, 'system' => :system }.fetch(value.to_s, false) }
  end

  newparam(:returns) do
    desc <<-DOC
      The statuses that count as success: a number, a range such as
      `'200-299'`, or a list of both. Default: `'200-299'`. A redirect (301,
      302, 307, 308) that is not listed is followed, with the same method
      and body, as long as it stays on the same host and does not leave
      https. Example: `[200, 202, '404-410']`.
    DOC

    defaultto '200-299'

    validate do |value|
      Array(value).each do |item|
        low, high = item.to_s.match(/\A([1-5]\d\d)(?:-([1-5]\d\d))?\z/)&.captures
        next if low && (high.nil? || low <= high)

        raise ArgumentError, "returns #{item.inspect}: must be a status such as 200 or a range such as '200-299'"
      end
      raise ArgumentError, 'returns must list at least one status' if Array(value).empty?
    end

    munge do |value|
      Array(value).map do |item|
        low, high = item.to_s.split('-').map(&:to_i)
        low..(high || low)
      end
    end
  end

  newparam(:timeout) do
    desc <<-DOC
      How many seconds the whole call may take: name lookup, connection,
      answer, redirects, and with `wait` the run. Then the resource fails;
      what the listener has accepted goes on there. A fraction is allowed,
      at most 86400 (a day). Default: 60, since a listener answers as soon
      as the run is written down; with `wait` 900, since a run may take 10
      minutes unless its route says otherwise and may have to wait for
      another one first. It replaces Puppet's setting `http_read_timeout`.
    DOC

    defaultto { @resource.wait? ? 900 : 60 }

    validate do |value|
      next if value.to_s =~ /\A\d+(\.\d+)?\z/ && value.to_f.positive? && value.to_f <= 86_400

      raise ArgumentError, "timeout #{value.inspect}: must be a number of seconds above 0 and at most 86400"
    end

    munge { |value| value.to_s.include?('.') ? value.to_f : value.to_i }
  end

  newparam(:wait, boolean: true, parent: Puppet::Parameter::Boolean) do
    desc <<-DOC
      Whether to wait until the listener's run is over: `true` or `false`
      (default). It adds `async=false` to the query string, shows what the
      run printed, line by line, at the resource's `loglevel` (default
      `notice`), and fails the resource when the run failed. When the
      listener stops waiting before the run is over, the run is followed
      until it is or until `timeout`; the listener must let this host read
      its runs for that.
    DOC

    defaultto false
  end

  newparam(:refreshonly, boolean: true, parent: Puppet::Parameter::Boolean) do
    desc <<-DOC
      Whether to send only when a resource that notifies this one (`notify`,
      `subscribe`, `~>`) has changed, once however many have: `true` or
      `false` (default).
    DOC

    defaultto false
  end

  autorequire(:file) do
    self[:tls].is_a?(Hash) ? self[:tls].values : []
  end

  validate do
    raise Puppet::Error, 'fqdn is missing: the host to call' unless self[:fqdn]
  end

  # Without the condition a notified resource would send twice in one Puppet run: as itself and as its refresh.
  def refresh
    notice(provider.deliver(self[:ensure])) if refreshonly?
  end

  # Puppet can mask properties only and warns about the rest. These parameters the provider masks itself.
  def set_sensitive_parameters(sensitive_parameters) # rubocop:disable Naming/AccessorMethodName
    masked, others = sensitive_parameters.partition { |name| %i[data header route].include?(name) }
    masked.each { |name| parameter(name).sensitive = true if parameter(name) }
    super(others)
  end
end

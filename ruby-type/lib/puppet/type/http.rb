# frozen_string_literal: true

# Without it `puppet resource` and `puppet describe` stop at "uninitialized constant Puppet::Parameter::Boolean".
require 'puppet/parameter/boolean'
require 'uri'
require_relative '../../puppet_x/webhook/secrets'

Puppet::Type.newtype(:http) do
  @doc = <<-DOC
    Sends an HTTP request while the catalog is applied: calls a route of a
    puppet-webhook listener, or any other HTTP API.

    A request leaves nothing on this host that could be in or out of sync,
    so an `http` resource is sent in **every** Puppet run, like an `exec`,
    and each time counts as a change. To send less often:

    * `refreshonly => true` sends when a resource that notifies it has
      changed, `once => true` when route and data have,
    * `creates` while a file is missing,
    * `onlyif` and `unless` as the answer to another request says.

    They can be combined; all of them must agree. In noop mode the request
    is not sent, and the report says what it would have been. The
    probes of `onlyif` and `unless` are made in noop mode too, as the
    commands of an `exec` are.

    The resource fails, and whatever requires it is skipped, when the
    listener cannot be reached, when it does not answer in time, and when
    it answers with a status that `returns` does not list. The reason it
    gives is part of the message.

    The request goes through Puppet's own HTTP client: its proxy settings
    and, with `tls => puppet`, this host's certificate, CA and CRLs are
    those of the Puppet agent. Every request has a random header
    `Idempotency-Key`, the same for all its `tries`, by which a listener
    runs it once.

    Values wrapped in `Sensitive`, in any attribute and at any depth, are
    sent in clear and shown masked, also where the listener's answer
    repeats them. `password`, `token` and the secret of `hmac` are masked
    always.

    **Autorequires:** the `file` resources of `tls`, and those of the
    directories above `save_to`.

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

    @example Create something in an API unless it is there
      http { 'team billing':
        ensure => post,
        url    => 'https://api.example.com/teams',
        token  => Sensitive('swordfish'),
        data   => { 'name' => 'billing' },
        unless => { 'route' => 'teams/billing' },
      }
  DOC

  # See PuppetX::Webhook::Secrets; here for the checks of attributes.
  def self.reveal(value)
    PuppetX::Webhook::Secrets.reveal(value)
  end

  # Ranges of statuses, of a status, a range as text, or a list of both.
  # @raise [ArgumentError] when it is none
  def self.statuses(value)
    items = [value].flatten
    raise ArgumentError, 'must list at least one status' if items.empty?

    items.map do |item|
      low, high = item.to_s.match(/\A([1-5]\d\d)(?:-([1-5]\d\d))?\z/)&.captures
      next Range.new(low.to_i, (high || low).to_i) if low && (high.nil? || low <= high)

      raise ArgumentError, "#{item.inspect}: must be a status such as 200 or a range such as '200-299'"
    end
  end

  # Whether the value comes to be known while the catalog is applied, inside a hash that is known already.
  def self.late?(value)
    value.is_a?(Puppet::Pops::Evaluator::DeferredValue)
  end

  # @raise [ArgumentError] with words that hold nothing of the URL, which may be secret
  def self.check_url(url)
    raise ArgumentError, 'it must begin with http:// or https:// and name a host' unless url.to_s =~ %r{\Ahttps?://[^/?#]}i

    check_path(url)
    raise ArgumentError, "Puppet's HTTP client cannot call an IPv6 address, only a name that has one" if url =~ %r{\A\w+://\[}

    uri = URI(PuppetX::Webhook::Secrets.percent_encode(url.sub(/#.*/m, '')))
    raise ArgumentError, 'it holds a user or a password; give them as user and password' if uri.userinfo
    raise ArgumentError, 'it has a fragment (#), which is never sent' if url.include?('#')
  rescue URI::Error
    raise ArgumentError, 'it is not a URL'
  end

  # @raise [ArgumentError]
  def self.check_path(route)
    raise ArgumentError, 'must be a string' unless route.is_a?(String)
    raise ArgumentError, 'must not contain control characters' if route =~ /[[:cntrl:]]/
    raise ArgumentError, '% must be followed by two hexadecimal digits' if route =~ /%(?!\h\h)/
  end

  # @raise [ArgumentError] with words that hold no value, which may be secret
  def self.check_probes(name, value)
    [reveal(value)].flatten.each do |probe|
      probe = { probe =~ %r{\Ahttps?://}i ? 'url' : 'route' => probe } if probe.is_a?(String)
      raise ArgumentError, 'must be a route, a URL, or a hash' unless probe.is_a?(Hash)

      unknown = probe.keys - %w[route url method status json body]
      known = 'known are route, url, method, status, json and body'
      raise ArgumentError, "unknown key #{unknown.first.inspect}, #{known}" unless unknown.empty?

      check_probe(probe)
    end
  rescue ArgumentError => e
    raise ArgumentError, "#{name}: #{e.message}"
  end

  def self.check_probe(probe)
    raise ArgumentError, 'route and url are alternatives' if probe.key?('route') && probe.key?('url')

    check_path(probe['route']) if probe.key?('route') && !late?(probe['route'])
    check_url(probe['url']) if probe.key?('url') && !late?(probe['url'])
    raise ArgumentError, 'method must be get or head, since a probe is to change nothing' unless
      %w[get head].include?(probe.fetch('method', 'get').to_s)
    raise ArgumentError, 'json must be a hash of paths and values' unless probe.fetch('json', {}).is_a?(Hash)

    statuses(probe['status']) if probe.key?('status')
    Regexp.new(probe['body']) if probe.key?('body')
  rescue RegexpError, TypeError
    raise ArgumentError, 'body must be a regular expression'
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
      `head`. Default: `post` when there is `data`, else `get`. A listener
      runs nothing for `head`.
    DOC

    newvalues(:get, :post, :put, :patch, :delete, :head)
    defaultto { @resource[:data].nil? ? :get : :post }

    # Runs in noop mode too: it probes, but sends nothing.
    def retrieve
      resource.due? ? :absent : should
    end

    def insync?(current)
      current == should
    end

    def sync
      @sent = provider.deliver(should)
    end

    # For noop mode, which has no other place to say what would be sent. In a failure it would repeat the message's own words.
    def should_to_s(value)
      noop ? "'#{provider.summary(value)}'" : super
    end

    def change_to_s(_current, _should)
      @sent
    end
  end

  newparam(:name, namevar: true) do
    desc <<-DOC
      The title: any text that is unique among the `http` resources of the
      catalog. It is the route too, unless `route` or `url` is given.
    DOC
  end

  newparam(:route) do
    desc <<-DOC
      The path to call, with or without a leading slash, and its query
      string if it needs one. Default: the title. Give it when the same
      route is called more than once in a catalog, such as on two hosts.
      Example: `'deploy?environment=qa'`.
    DOC

    defaultto { @resource[:name] if @resource[:url].nil? }

    validate do |value|
      route = resource.class.reveal(value)
      raise ArgumentError, 'it is a path: give the host as fqdn and https as tls, or all of it as url' if
        route =~ %r{\A[a-z]+://}i

      resource.class.check_path(route)
    rescue ArgumentError => e
      raise ArgumentError, "route: #{e.message}"
    end
  end

  newparam(:fqdn) do
    desc <<-DOC
      The host to call: its name or its IPv4 address. Required, unless `url`
      is given. The name must be in the host's certificate when `tls` is
      used.
    DOC

    validate do |value|
      fqdn = resource.class.reveal(value)
      next if fqdn.is_a?(String) && fqdn =~ /\A[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_.])?\z/i

      remedy = if fqdn.to_s =~ /\A\[?[0-9a-f]*:[0-9a-f:.]+\]?\z/i
                 "Puppet's HTTP client cannot call an IPv6 address, only a name that has one"
               else
                 'it is a host name or an IPv4 address alone; port, route and tls are attributes of their own, url is all'
               end
      raise ArgumentError, "fqdn #{value.inspect}: #{remedy}"
    end
  end

  newparam(:port) do
    desc <<-DOC
      The TCP port to call, 1 to 65535, as a number or a string. Default:
      6969, where a listener serves unless told otherwise.
    DOC

    defaultto { 6969 if @resource[:url].nil? }

    validate do |value|
      next if value.to_s =~ /\A\d{1,5}\z/ && value.to_i.between?(1, 65_535)

      raise ArgumentError, "port #{value.inspect}: must be a whole number from 1 to 65535"
    end

    munge { |value| Integer(value.to_s, 10) }
  end

  newparam(:url) do
    desc <<-DOC
      All of the address in one, instead of `fqdn`, `port` and `route`:
      `'https://api.example.com/teams?dry_run=true'`. Without `tls`, https
      trusts the CAs of the `system`. The port is that of the URL: 80 and
      443 when it names none.
    DOC

    validate do |value|
      resource.class.check_url(resource.class.reveal(value))
    rescue ArgumentError => e
      raise ArgumentError, "url: #{e.message}"
    end
  end

  newparam(:data) do
    desc <<-DOC
      What to send as the body. A hash or an array is sent as JSON; numbers,
      booleans and `undef` (null) keep their type. With the content type
      `application/x-www-form-urlencoded` in `header` a flat hash is sent
      as a form; a list becomes a field several times. A string is sent
      as it is. Default: no body. Example: `{ 'role' => $facts['role'],
      'token' => Sensitive($token) }`.
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
        next if text.is_a?(Integer) || resource.class.late?(text)
        next if text.is_a?(String) && text !~ /[\r\n\0]/

        raise ArgumentError, "header #{name.inspect}: its value must be one line of text or a whole number"
      end
    end
  end

  newparam(:user) do
    desc <<-DOC
      The user of HTTP basic authentication. `password` goes with it.
    DOC

    validate do |value|
      user = resource.class.reveal(value)
      next if user.is_a?(String) && user !~ /[:[:cntrl:]]/ && !user.empty?

      raise ArgumentError, 'user must be a text without a colon'
    end
  end

  newparam(:password) do
    desc <<-DOC
      The password of HTTP basic authentication, for `user`. Wrap it in
      `Sensitive`, which keeps it out of what Puppet itself shows; this
      type masks it in any case.
    DOC

    validate do |value|
      password = resource.class.reveal(value)
      next if password.is_a?(String) && password !~ /[[:cntrl:]]/ && !password.empty?

      raise ArgumentError, 'password must be a text of one line, and not empty'
    end
  end

  newparam(:token) do
    desc <<-DOC
      A token to send as `Authorization: Bearer`, best as `Sensitive`. It
      excludes `user` and `password`. For a token in another header use
      `header`.
    DOC

    validate do |value|
      token = resource.class.reveal(value)
      next if token.is_a?(String) && token =~ /\A[!-~]+\z/

      raise ArgumentError, 'token must be a text of ASCII characters without spaces, and not empty'
    end
  end

  newparam(:hmac) do
    desc <<-DOC
      The secret to sign the request with, best as `Sensitive`, or a hash
      with `style`, `secret` and `header`. Styles:

      * `github` (default): `X-Hub-Signature-256`, the HMAC-SHA256 of the
        body after `sha256=`, and `X-GitHub-Delivery`. The key `header`
        names another header for the signature, such as `X-Signature`,
        where a listener's `auth: hmac` looks unless told otherwise.
      * `standard-webhooks`: `webhook-id`, `webhook-timestamp` and
        `webhook-signature`, as the Standard Webhooks have it; the secret
        is in Base64, mostly with `whsec_` before it.

      Without `data` the empty body is signed. Example:
      `{ 'style' => 'standard-webhooks', 'secret' => Sensitive($secret) }`.
    DOC

    validate do |value|
      hmac = resource.class.reveal(value)
      hmac = { 'secret' => hmac } if hmac.is_a?(String)
      raise ArgumentError, 'hmac must be a secret, or a hash with style, secret and header' unless hmac.is_a?(Hash)

      unknown = hmac.keys - %w[style secret header]
      raise ArgumentError, "hmac: unknown key #{unknown.first.inspect}, known are style, secret and header" unless unknown.empty?

      style = hmac.fetch('style', 'github')
      raise ArgumentError, 'hmac: style must be github or standard-webhooks' unless %w[github standard-webhooks].include?(style)

      raise ArgumentError, 'hmac: the headers of standard-webhooks are fixed' if hmac.key?('header') && style != 'github'
      raise ArgumentError, 'hmac: header is not a header name' unless hmac.fetch('header', 'X') =~ /\A[!#$%&'*+.^_`|~0-9a-z-]+\z/i

      secret = hmac['secret']
      next if resource.class.late?(secret)
      raise ArgumentError, 'hmac: secret must be a text that is not empty' unless secret.is_a?(String) && !secret.empty?
      next if style == 'github' || secret =~ %r{\A(?:whsec_)?[A-Za-z0-9+/]+={0,2}\z}

      raise ArgumentError, 'hmac: the secret of standard-webhooks is in Base64, mostly with whsec_ before it'
    end
  end

  newparam(:tls) do
    desc <<-DOC
      Whether and how to use https:

      * `false` (default): plain http. With an https `url` the default is
        `system`.
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
      resource.class.statuses(value)
    rescue ArgumentError => e
      raise ArgumentError, "returns #{e.message}"
    end

    munge { |value| resource.class.statuses(value) }
  end

  newparam(:tries) do
    desc <<-DOC
      How often the call is made before the resource fails, 1 (default) to
      1000. It is made again when there was no connection or no answer in
      time, and after the statuses 408, 409, 425, 429 and 5xx; not when
      the listener has refused the call or the run has failed, which the
      next try would not change. All tries have the same
      `Idempotency-Key`.
    DOC

    defaultto 1

    validate do |value|
      next if value.to_s =~ /\A\d{1,4}\z/ && value.to_i.between?(1, 1000)

      raise ArgumentError, "tries #{value.inspect}: must be a whole number from 1 to 1000"
    end

    munge { |value| Integer(value.to_s, 10) }
  end

  newparam(:try_sleep) do
    desc <<-DOC
      How many seconds to wait between two tries, 0 to 3600; a fraction is
      allowed. Default: 5. When the other side asks for a longer time by
      `Retry-After`, that is waited for instead, up to 60 seconds.
    DOC

    defaultto 5

    validate do |value|
      next if value.to_s =~ /\A\d+(\.\d+)?\z/ && value.to_f <= 3600

      raise ArgumentError, "try_sleep #{value.inspect}: must be a number of seconds from 0 to 3600"
    end

    munge { |value| value.to_s.include?('.') ? value.to_f : value.to_i }
  end

  newparam(:timeout) do
    desc <<-DOC
      How many seconds one try may take: name lookup, connection, answer,
      redirects, and with `wait` the run. Then it has failed; what the
      listener has accepted goes on there, and is not sent again. A fraction
      is allowed, at most 86400 (a day). Default: 60, since a listener
      answers as soon as the run is written down; with `wait` 900, since a
      run may take 10 minutes unless its route says otherwise and may have
      to wait for another one first. It replaces Puppet's setting
      `http_read_timeout`.
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
      (default). It adds `async=false` to the query string, logs what the
      run prints, line by line as it comes, at the resource's `loglevel`
      (default `notice`), and fails the resource when the run fails. When
      the connection breaks off or the listener is restarted meanwhile, the
      same call is made again, by whose `Idempotency-Key` the listener
      finds the run it has. Of more than 1000 lines the last 100 are logged
      at the end, and those between not at all.
    DOC

    defaultto false
  end

  newparam(:save_to) do
    desc <<-DOC
      Where to keep the body of the answer, or with `wait` what the run
      printed: the absolute path of a file, or a hash with `path` and
      `mode`. The file is written whole or not at all, and only after a
      success. Default mode: `'0600'`, since an answer may hold secrets.
      At most 32 MiB. Example: `{ 'path' => '/etc/team.json', 'mode' =>
      '0644' }`.
    DOC

    validate do |value|
      saved = value.is_a?(Hash) ? value : { 'path' => value }
      unknown = saved.keys - %w[path mode]
      raise ArgumentError, "save_to: unknown key #{unknown.first.inspect}, known are path and mode" unless unknown.empty?

      unless saved['path'].is_a?(String) && Puppet::Util.absolute_path?(saved['path'])
        raise ArgumentError, 'save_to must be an absolute path, or a hash with path and mode'
      end
      next if saved.fetch('mode', '0600').to_s =~ /\A0?[0-7]{3}\z/

      raise ArgumentError, "save_to: mode #{saved['mode'].inspect} must be three or four octal digits such as '0640'"
    end
  end

  newparam(:refreshonly, boolean: true, parent: Puppet::Parameter::Boolean) do
    desc <<-DOC
      Whether to send only when a resource that notifies this one (`notify`,
      `subscribe`, `~>`) has changed, once however many have: `true` or
      `false` (default).
    DOC

    defaultto false
  end

  newparam(:once, boolean: true, parent: Puppet::Parameter::Boolean) do
    desc <<-DOC
      Whether to send only when method, address or data are others than at
      the last success under this title: `true` or `false` (default). That
      is kept in `webhook_http.json` in Puppet's state directory, as a
      keyed hash that tells nothing of what was sent. Headers and
      credentials do not count, so a new token sends nothing again. To
      send once more, remove the title's entry or the file.
    DOC

    defaultto false
  end

  newparam(:creates) do
    desc <<-DOC
      A file, or a list of files, by absolute path: nothing is sent when one
      of them exists. Example: `'/var/lib/billing/registered'`.
    DOC

    validate do |value|
      paths = [value].flatten
      next if paths.any? && paths.all? { |path| path.is_a?(String) && Puppet::Util.absolute_path?(path) }

      raise ArgumentError, 'creates must be an absolute path or a list of them'
    end
  end

  newparam(:onlyif) do
    desc <<-DOC
      A probe: sends only when the answer to another request is as said
      here. A route on the same host, a URL, or a hash with

      * `route` or `url`: what to ask for. Default: what the resource calls.
      * `method`: `get` (default) or `head`.
      * `status`: as in `returns`. Default: `'200-299'`.
      * `json`: a hash of paths in the JSON of the answer and their values,
        all of which must be equal: `{ 'state.ready' => true,
        'nodes.0.name' => 'db1' }`. `undef` stands for null and for what is
        not there.
      * `body`: a regular expression that the body must match.

      All that is said must be so. A list holds several probes, each of
      which must be so. A probe has the header, credentials, `tls`, `tries`
      and `timeout` of the resource; to another host than the resource's
      no header and no credentials are sent. When there is no answer, or
      401, 403, 407, 408, 409, 425, 429 or 5xx and `status` does not list
      it, the resource fails and nothing is sent. Probes are made in noop
      mode too. Do not probe a route of a listener by `get`: that runs it.
    DOC

    validate { |value| resource.class.check_probes(name, value) }
  end

  newparam(:unless) do
    desc <<-DOC
      A probe: does not send when the answer to another request is as said
      here. It has the forms of `onlyif`; of a list one suffices. Example:
      `{ 'route' => 'teams/billing', 'json' => { 'state' => 'active' } }`.
    DOC

    validate { |value| resource.class.check_probes(name, value) }
  end

  autorequire(:file) do
    saved = self[:save_to].is_a?(Hash) ? self[:save_to]['path'] : self[:save_to]
    above = saved.is_a?(String) ? Pathname(saved).dirname.ascend.map(&:to_s) : []
    (self[:tls].is_a?(Hash) ? self[:tls].values : []) + above
  end

  validate do
    if self[:url]
      extra = %i[fqdn port route].reject { |name| self[name].nil? }
      unless extra.empty?
        raise Puppet::Error, "url and #{extra.first} are alternatives: url is the whole address. Where resource defaults set " \
                             "#{extra.first}, take it back with #{extra.first} => undef"
      end
      plain = self.class.reveal(self[:url]) !~ /\Ahttps:/i
      raise Puppet::Error, 'tls is said, but url begins with http://' if plain && self[:tls]
      raise Puppet::Error, 'tls is false, but url begins with https://' if !plain && self[:tls] == false
    elsif self[:fqdn].nil?
      raise Puppet::Error, 'fqdn is missing: the host to call; or give the whole address as url'
    end
    validate_credentials
    validate_waiting
  end

  def validate_credentials
    raise Puppet::Error, 'user and password go together' if self[:user].nil? != self[:password].nil?
    raise Puppet::Error, 'token and user are alternatives' if self[:token] && self[:user]

    header = self.class.reveal(self[:header])
    return unless header.is_a?(Hash) && (self[:token] || self[:user])
    return if header.keys.none? { |name| name.to_s.casecmp?('authorization') }

    raise Puppet::Error, 'header sets Authorization, and so does token or user'
  end

  def validate_waiting
    return unless wait?
    raise Puppet::Error, 'wait: a listener runs nothing for head' if self[:ensure] == :head
    return if self.class.reveal(self[:url] || self[:route]) !~ /[?&]async=true(?:&|\z)/

    raise Puppet::Error, 'wait: the query string says async=true, which is not to wait'
  end

  # Whether the request is to be sent; the reason why not is told at debug level, as `exec` does.
  # @raise [Puppet::Error] when a probe brings no answer to go by.
  def due?(refreshing: false)
    return false if refreshonly? && !refreshing

    reason = provider.needless(self[:ensure])
    debug("not sent: #{reason}") if reason
    reason.nil?
  end

  # Without the condition a notified resource would send twice in one Puppet run: as itself and as its refresh.
  def refresh
    notice(provider.deliver(self[:ensure])) if refreshonly? && due?(refreshing: true)
  end

  # Puppet can mask properties only and warns about the rest. Parameters are masked by the provider.
  def set_sensitive_parameters(sensitive_parameters) # rubocop:disable Naming/AccessorMethodName
    masked, others = sensitive_parameters.partition { |name| self.class.parameters.include?(name) }
    masked.each { |name| parameter(name).sensitive = true if parameter(name) }
    super(others)
  end
end

# frozen_string_literal: true

require 'json'

# Sends an HTTP request and returns what came back: a value that is needed while the catalog is applied. It is the resource
# type `http` as a function, with the same attributes, checks and trust.
#
# Call it as `Deferred`, and it is sent by the Puppet agent, on the host that the catalog is for, with that host's certificate;
# called directly it is sent by the Puppet server while it compiles. Either way it is sent in **every** Puppet run, in noop mode
# too, so it should only ask. When the call fails, so does the Puppet run: before it has changed anything, or, where Puppet
# resolves deferred values late (its default from 8 on), when it comes to the resource that needs the value.
#
# The answer is the parsed value when it is JSON, else its text. With `wait => true` it is what the run of the route printed.
Puppet::Functions.create_function(:'webhook::call') do
  # Gets a URL.
  #
  # @param url what to get: the whole address
  # @return the answer: the value of its JSON, or its text
  # @example A value of an API, when the catalog is applied
  #   file { '/etc/billing.license':
  #     content => Deferred('webhook::call', ['https://licenses.example.com/billing']),
  #   }
  dispatch :call_url do
    param 'Variant[Pattern[/\A(?i:https?):\/\//], Sensitive[String[1]]]', :url
    return_type 'Any'
  end

  # Sends any request.
  #
  # @param call the attributes of the resource type `http` that say what is sent and when it has failed: `url`, or `fqdn`,
  #   `port` and `route`; `ensure`, `data`, `header`, `user`, `password`, `token`, `hmac`, `tls`, `returns`, `tries`,
  #   `try_sleep`, `timeout` and `wait`. Besides, `parse => false` returns JSON as text, and `sensitive => true` returns the
  #   answer as `Sensitive`.
  # @return the answer: the value of its JSON, or its text; in a Sensitive if that was asked for
  # @example A field of a JSON answer, kept secret
  #   $secret = Deferred('webhook::call', [{
  #     'fqdn'      => 'my.puppetmaster.com',
  #     'route'     => 'database_password',
  #     'tls'       => 'puppet',
  #     'wait'      => true,
  #     'sensitive' => true,
  #   }])
  dispatch :call_as_said do
    param 'Hash[String[1], Any]', :call
    return_type 'Any'
  end

  def call_url(url)
    call_as_said('url' => url)
  end

  def call_as_said(call)
    options = %w[parse sensitive]
    attributes = %w[url fqdn port route ensure data header user password token hmac tls returns tries try_sleep timeout wait]
    unknown = call.keys - attributes - options
    raise ArgumentError, "webhook::call: unknown key #{unknown.first.inspect}, known are #{(attributes + options).join(', ')}" if
      unknown.any?

    text, type = fetch(call.reject { |name, value| options.include?(name) || value.nil? })
    answer = call['parse'] != false && type =~ %r{[/+]json\z} ? JSON.parse(text) : text
    call['sensitive'] ? Puppet::Pops::Types::PSensitiveType::Sensitive.new(answer) : answer
  rescue JSON::ParserError
    raise Puppet::Error, 'webhook::call: the answer says that it is JSON, but it is not; parse => false returns it as text'
  end

  # @return [Array(String, String)] the text that came back and its media type
  def fetch(attributes)
    unless attributes['url'] || attributes['route']
      raise ArgumentError, 'webhook::call: give url, or fqdn and route: the address to call'
    end

    resource = Puppet::Type.type(:http).new(attributes.merge('title' => 'webhook::call').transform_keys(&:to_sym))
    resource.provider.fetch(resource[:ensure])
  end
end

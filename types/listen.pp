# @summary Where and how to listen.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Listen = Struct[{
  'address'         => Optional[Variant[Webhook::Text, Array[Webhook::Text, 1]]],
  'port'            => Optional[Integer[0, 65535]],
  'tls'             => Optional[Variant[Enum['puppet'], Struct[{
    'puppet' => Webhook::SomeText,
  }], Struct[{
    'cert' => Webhook::SomeText,
    'key'  => Webhook::SomeText,
    'ca'   => Optional[Webhook::SomeText],
    'crl'  => Optional[Webhook::SomeText],
  }]]],
  'client_certs'    => Optional[Enum['none', 'optional', 'required']],
  'trusted_proxies' => Optional[Variant[Webhook::Text, Array[Webhook::Text, 1]]],
  'max_body'        => Optional[Variant[Integer[0], Webhook::Size]],
  'header_timeout'  => Optional[Webhook::Duration],
  'body_timeout'    => Optional[Webhook::Duration],
}]

# @summary How callers are known, by one kind of auth.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::AuthEntry = Struct[{
  'bearer'      => Optional[Webhook::Secret],
  'basic'       => Optional[Struct[{
    'user'     => Pattern[/\A[^:\p{Cc}]+\z/],
    'password' => Webhook::Secret,
  }]],
  'header'      => Optional[Struct[{
    'name'  => Pattern[/\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z/],
    'value' => Webhook::Secret,
  }]],
  'hmac'        => Optional[Struct[{
    'secret'    => Webhook::Secret,
    'header'    => Optional[Pattern[/\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z/]],
    'algorithm' => Optional[Enum['sha256', 'sha512', 'sha1']],
    'encoding'  => Optional[Enum['hex', 'base64']],
    'prefix'    => Optional[Webhook::Text],
    'signed'    => Optional[Webhook::Text],
    'timestamp' => Optional[Pattern[/\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z/]],
    'tolerance' => Optional[Webhook::Duration],
    'id'        => Optional[Pattern[/\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z/]],
  }]],
  'jwt'         => Optional[Struct[{
    'issuer'     => Variant[Webhook::SomeText, Array[Webhook::SomeText, 1]],
    'audience'   => Variant[Webhook::SomeText, Array[Webhook::SomeText, 1]],
    'jwks'       => Optional[Webhook::SomeText],
    'secret'     => Optional[Webhook::Secret],
    'algorithms' => Optional[Array[Enum[
      'RS256',
      'RS384',
      'RS512',
      'PS256',
      'PS384',
      'PS512',
      'ES256',
      'ES384',
      'ES512',
      'EdDSA',
      'Ed25519',
      'HS256',
      'HS384',
      'HS512',
    ], 1]],
    'claims'     => Optional[Hash[String[1], Variant[
      Variant[Webhook::Text, Numeric, Boolean],
      Array[Variant[Webhook::Text, Numeric, Boolean], 1],
    ]]],
    'tolerance'  => Optional[Webhook::Duration],
  }]],
  'certificate' => Optional[Struct[{
    'certname'   => Optional[Variant[Webhook::SomeText, Array[Webhook::SomeText, 1]]],
    'extensions' => Optional[Hash[String[1], Variant[Webhook::SomeText, Array[Webhook::SomeText, 1]]]],
  }]],
  'ip'          => Optional[Variant[Webhook::Text, Array[Webhook::Text, 1]]],
  'body'        => Optional[Struct[{
    'field' => Pattern[/\A(?!\/)|\A(?:\/(?:[^~\/]|~[01])*)+\z/],
    'value' => Webhook::Secret,
  }]],
  'all'         => Optional[Array[Variant[Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/], Webhook::AuthEntry], 2]],
}]

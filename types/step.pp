# lint:ignore:140chars

# @summary One thing that a run does: exactly one of command, hieradata, http, trigger.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Step = Struct[{
  'command'   => Optional[Variant[Webhook::SomeText, Array[Webhook::Text, 1]]],
  'cwd'       => Optional[Webhook::SomeText],
  'env'       => Optional[Hash[Pattern[/\A[A-Za-z_][A-Za-z0-9_]*\z/], Variant[Webhook::Text, Numeric, Boolean]]],
  'shell'     => Optional[Pattern[/\A\S+\z/]],
  'timeout'   => Optional[Webhook::Duration],
  'hieradata' => Optional[Struct[{
    'repo'      => Webhook::SomeText,
    'file'      => Webhook::SomeText,
    'set'       => Hash[String[1], Variant[Webhook::Text, Numeric, Boolean]],
    'each'      => Optional[Webhook::SomeText],
    'create'    => Optional[Boolean],
    'message'   => Optional[Webhook::SomeText],
    'author'    => Optional[Webhook::SomeText],
    'push'      => Optional[Boolean],
    'remote'    => Optional[Pattern[/\A[A-Za-z0-9_][\w.-]*\z/]],
    'branch'    => Optional[Webhook::SomeText],
    'attempts'  => Optional[Integer[1, 100]],
    'timeout'   => Optional[Webhook::Duration],
    'unchanged' => Optional[Enum['continue', 'stop']],
  }]],
  'http'      => Optional[Struct[{
    'method'           => Optional[Enum['get', 'head', 'post', 'put', 'patch', 'delete']],
    'url'              => Variant[Webhook::SomeText, Webhook::Secret],
    'headers'          => Optional[Hash[Pattern[/\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z/], Variant[Variant[Webhook::Text, Numeric, Boolean], Webhook::Secret]]],
    'bearer'           => Optional[Webhook::Secret],
    'basic'            => Optional[Struct[{
      'user'     => Pattern[/\A[^:\p{Cc}]+\z/],
      'password' => Webhook::Secret,
    }]],
    'json'             => Optional[RichData],
    'body'             => Optional[Webhook::Text],
    'status'           => Optional[Variant[
      Variant[Integer[100, 599], Pattern[/\A([1-5]xx|[1-5]\d\d(-[1-5]\d\d)?)\z/]],
      Array[Variant[Integer[100, 599], Pattern[/\A([1-5]xx|[1-5]\d\d(-[1-5]\d\d)?)\z/]], 1],
    ]],
    'timeout'          => Optional[Webhook::Duration],
    'retry'            => Optional[Struct[{
      'attempts' => Integer[1, 100],
      'delay'    => Optional[Webhook::Duration],
    }]],
    'follow_redirects' => Optional[Boolean],
    'ca'               => Optional[Webhook::SomeText],
  }]],
  'trigger'   => Optional[Webhook::SomeText],
}]
# lint:endignore

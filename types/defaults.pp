# @summary What routes have that do not say so themselves. Counts for included files too.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Defaults = Struct[{
  'method'      => Optional[Variant[
    Enum['get', 'post', 'put', 'patch', 'delete'],
    Array[Enum['get', 'post', 'put', 'patch', 'delete'], 1],
  ]],
  'auth'        => Optional[Variant[
    Enum['none'],
    Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/],
    Array[Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/], 1],
  ]],
  'rate'        => Optional[Variant[Pattern[/\A[1-9]\d{0,6}\/[smhd]\z/], Struct[{
    'client'   => Optional[Pattern[/\A[1-9]\d{0,6}\/[smhd]\z/]],
    'route'    => Optional[Pattern[/\A[1-9]\d{0,6}\/[smhd]\z/]],
    'failures' => Optional[Pattern[/\A[1-9]\d{0,6}\/[smhd]\z/]],
  }]]],
  'cwd'         => Optional[Webhook::SomeText],
  'env'         => Optional[Hash[Pattern[/\A[A-Za-z_][A-Za-z0-9_]*\z/], Variant[Webhook::Text, Numeric, Boolean]]],
  'shell'       => Optional[Pattern[/\A\S+\z/]],
  'timeout'     => Optional[Webhook::Duration],
  'kill_after'  => Optional[Webhook::Duration],
  'max_output'  => Optional[Variant[Integer[0], Webhook::Size]],
  'keep'        => Optional[Variant[Integer[1], Struct[{
    'runs' => Optional[Integer[1]],
    'age'  => Optional[Webhook::Duration],
  }]]],
  'retry'       => Optional[Struct[{
    'attempts' => Integer[1, 100],
    'delay'    => Optional[Webhook::Duration],
    'backoff'  => Optional[Variant[Integer[1, 10], Float[1, 10]]],
  }]],
  'on_crash'    => Optional[Enum['rerun', 'fail']],
  'wait'        => Optional[Variant[Boolean, Webhook::Duration]],
  'log'         => Optional[Enum['none', 'error', 'warn', 'info', 'debug']],
  'concurrency' => Optional[Struct[{
    'limit'     => Optional[Integer[1]],
    'when_busy' => Optional[Enum['queue', 'coalesce', 'reject', 'parallel']],
  }]],
}]

# @summary Who may read /metrics. Default: as admin.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Metrics = Struct[{
  'auth' => Variant[Enum['none'], Variant[
    Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/],
    Array[Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/], 1],
  ]],
}]

# @summary Who may use the endpoints under /-/, and /metrics. Default: programs of this host only, and not through a
#   proxy.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Admin = Struct[{
  'auth' => Variant[
    Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/],
    Array[Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/], 1],
  ],
}]

# @summary Text that is not empty, or one that is not to be shown.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::SomeText = Variant[String[1], Sensitive[String[1]]]

# @summary Text, or a text that is not to be shown.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Text = Variant[String, Sensitive[String]]

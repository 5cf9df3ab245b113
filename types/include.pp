# @summary Further files with routes: paths, or patterns such as routes.d/*.yaml, relative to this file's directory.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Include = Variant[Webhook::SomeText, Array[Webhook::SomeText, 1]]

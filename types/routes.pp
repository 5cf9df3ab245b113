# @summary The routes. A key is the path, without the leading slash, and the name of the route.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Routes = Hash[String[1], Webhook::Route]

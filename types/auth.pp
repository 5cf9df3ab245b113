# @summary Ways to know who calls, by names of your own; routes and admin name them.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Auth = Hash[Pattern[/\A(?!(?:none|local)\z)[A-Za-z0-9_][\w.-]*\z/], Webhook::AuthEntry]

# @summary A duration with its unit, such as 500ms, 30s, 10m or 7d.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Duration = Pattern[/\A(\d+(?:\.\d+)?) ?(ms|s|m|h|d)\z/]

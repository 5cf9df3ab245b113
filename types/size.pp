# @summary A number of bytes with its unit, such as 64 KiB or 10 MB.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Size = Pattern[/\A(\d+(?:\.\d+)?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)\z/]

# @summary A path from the root on, without blanks and quotes, as it stands in units and command lines.
type Webhook::Absolutepath = Pattern[/\A\/[^\s'"\\%$]*\z/]

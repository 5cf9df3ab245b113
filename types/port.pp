# @summary A TCP port, as a number or as text.
type Webhook::Port = Variant[Integer[1, 65535], Pattern[/\A[1-9][0-9]{0,4}\z/]]

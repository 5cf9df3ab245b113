# @summary A secret: the text itself, or where it is; or a list of these, each of which is valid.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Secret = Variant[Variant[Webhook::SomeText, Struct[{
  'env' => Pattern[/\A[A-Za-z_][A-Za-z0-9_]*\z/],
}], Struct[{
  'file'  => Webhook::SomeText,
  'exact' => Optional[Boolean],
}], Struct[{
  'credential' => Pattern[/\A(?!\.{1,2}\z)[^\0\/]+\z/],
  'exact'      => Optional[Boolean],
}]], Array[Variant[Webhook::SomeText, Struct[{
  'env' => Pattern[/\A[A-Za-z_][A-Za-z0-9_]*\z/],
}], Struct[{
  'file'  => Webhook::SomeText,
  'exact' => Optional[Boolean],
}], Struct[{
  'credential' => Pattern[/\A(?!\.{1,2}\z)[^\0\/]+\z/],
  'exact'      => Optional[Boolean],
}]], 1]]

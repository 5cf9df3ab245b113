# @summary A value that callers may give: in the path, the query, or the top level of the body.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Param = Struct[{
  'description' => Optional[Webhook::Text],
  'from'        => Optional[Variant[Webhook::Text, Boolean]],
  'required'    => Optional[Boolean],
  'default'     => Optional[Variant[Webhook::Text, Numeric, Boolean]],
  'pattern'     => Optional[Webhook::SomeText],
  'enum'        => Optional[Array[Variant[Webhook::Text, Numeric, Boolean], 1]],
  'type'        => Optional[Enum['string', 'integer', 'number', 'boolean']],
  'secret'      => Optional[Boolean],
}]

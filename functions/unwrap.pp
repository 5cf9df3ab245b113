# @summary Takes the mark of secrets off, at any depth, and leaves out keys without a value.
#
# @param value
#   Data that may hold secrets.
#
# @return [RichData] The same in clear: only for what is marked as secret as a whole.
#
# @api private
function webhook::unwrap(RichData $value) >> RichData {
  case $value {
    Sensitive: { webhook::unwrap($value.unwrap) }
    Hash: { Hash($value.filter |$_, $each| { $each =~ NotUndef }.map |$key, $each| { [$key, webhook::unwrap($each)] }) }
    Array: { $value.map |$each| { webhook::unwrap($each) } }
    default: { $value }
  }
}

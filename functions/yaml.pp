# @summary Writes data as YAML 1.2, the way a person would.
#
# Whatever a reader could take for something else (`yes`, `0o17`, `1e3`) is in quotes, and a text of several lines stays one.
#
# @param value
#   What to write.
# @param indent
#   What every line begins with.
#
# @return [String] Lines, each with its end.
#
# @api private
function webhook::yaml(Data $value, String $indent = '') >> String {
  case $value {
    Hash[String, Data, 1]: {
      $lines = $value.map |$key, $each| {
        $nested = $each =~ Hash[String, Data, 1] or ($each =~ Array and $each.any |$item| { $item =~ Collection })
        $nested ? {
          true    => "${indent}${webhook::yaml_scalar($key)}:\n${webhook::yaml($each, "${indent}  ")}",
          default => "${indent}${webhook::yaml_scalar($key)}: ${webhook::yaml_scalar($each, "${indent}  ")}\n",
        }
      }
      $lines.join('')
    }
    Array[Data, 1]: {
      $items = $value.map |$each| {
        $each ? {
          Collection => "${indent}-\n${webhook::yaml($each, "${indent}  ")}",
          default    => "${indent}- ${webhook::yaml_scalar($each, "${indent}  ")}\n",
        }
      }
      $items.join('')
    }
    default: {
      "${indent}${webhook::yaml_scalar($value)}\n"
    }
  }
}

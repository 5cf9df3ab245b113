# @summary Writes one value as YAML 1.2, or a list of such on one line.
#
# @param value
#   What to write.
# @param indent
#   What further lines of a text begin with; without it a text is one line, as keys and items of lists have to be.
#
# @return [String] The value, without the end of its last line.
#
# @api private
function webhook::yaml_scalar(Data $value, String $indent = '') >> String {
  case $value {
    Undef: { 'null' }
    Numeric, Boolean: { "${value}" } # lint:ignore:only_variable_string
    Hash: { '{}' }
    Array: {
      $items = $value.map |$each| { webhook::yaml_scalar($each) }
      "[${items.join(', ')}]"
    }
    # What no reader takes for anything but text, nor for an end of it; and durations.
    /\A(?!(?i:true|false|null|yes|no|on|off|y|n)\z)[A-Za-z\/][A-Za-z0-9_.\/@+-]*( [A-Za-z0-9_.\/@+-]+)*\z/, /\A[0-9]+(ms|[smhd])\z/: { $value }
    /[\x00-\x08\x0b-\x1f\x7f]/: { fail('routes.yaml cannot hold control characters other than tab and newline') }
    default: {
      if $indent != '' and $value =~ /\A\S[^\t]*\n[^\t]*\S\n?\z/ {
        $end = $value ? {
          /\n\z/  => '|',
          default => '|-',
        }
        $lines = $value.split("\n").map |$line| {
          $line ? {
            ''      => '',
            default => "${indent}${line}",
          }
        }
        "${end}\n${lines.join("\n")}"
      } else {
        $escaped = $value
          .regsubst('[\\\\"]', '\\\\\\0', 'G')
          .regsubst('\n', '\\n', 'G')
          .regsubst('\t', '\\t', 'G')
        "\"${escaped}\""
      }
    }
  }
}

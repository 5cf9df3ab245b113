# @summary A command that sudo is to allow, exactly as written: a program by its path, and its arguments.
#
# A program without arguments may be called without arguments only. `*` in an argument stands for any text, blanks and further
# arguments included: better name each call. A hash says as whom the command runs; root, unless it does.
type Webhook::Sudocommand = Variant[
  Pattern[/\A\/[^\n]*\z/],
  Struct[{
    'command' => Pattern[/\A\/[^\n]*\z/],
    'user'    => Optional[Pattern[/\A[a-z_][a-z0-9_.-]*\z/]],
  }],
]

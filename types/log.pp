# @summary How the log is written.
#
# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.
type Webhook::Log = Struct[{
  'level'   => Optional[Enum['error', 'warn', 'info', 'debug']],
  'format'  => Optional[Enum['text', 'json']],
  'console' => Optional[Boolean],
  'file'    => Optional[Struct[{
    'path'     => Webhook::SomeText,
    'max_size' => Optional[Variant[Integer[0], Webhook::Size]],
    'keep'     => Optional[Integer[1, 1000]],
    'format'   => Optional[Enum['text', 'json']],
  }]],
  'syslog'  => Optional[Struct[{
    'facility' => Optional[Enum[
      'kern',
      'user',
      'mail',
      'daemon',
      'auth',
      'syslog',
      'lpr',
      'news',
      'uucp',
      'cron',
      'authpriv',
      'ftp',
      'ntp',
      'security',
      'console',
      'solaris-cron',
      'local0',
      'local1',
      'local2',
      'local3',
      'local4',
      'local5',
      'local6',
      'local7',
    ]],
    'address'  => Optional[Webhook::Text],
    'app_name' => Optional[Pattern[/\A[\x21-\x7e]{1,48}\z/]],
  }]],
}]

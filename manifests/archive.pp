# @summary An archive that is unpacked into a directory of its own.
#
# It is unpacked beside the version that is there and moved into its place, so that at any time there is a whole one.
#
# @param source
#   Where the archive comes from: a path, or a `puppet:` or `https:` address.
# @param checksum
#   Its SHA-256; for one that comes over https, which says no checksum by itself.
#
# @api private
define webhook::archive (
  String[1] $source,
  Optional[String[1]] $checksum = undef,
) {
  $archive = "${title}.tar.gz"

  file { $archive:
    ensure         => file,
    owner          => 'root',
    group          => 'root',
    mode           => '0644',
    source         => $source,
    checksum       => 'sha256',
    checksum_value => $checksum,
  }

  $fresh = "${title}.new"
  $old = "${title}.old"
  exec { "webhook: unpack ${archive}":
    command  => join([
        "rm -rf ${fresh} ${old} && mkdir ${fresh}",
        "tar -xzf ${archive} --no-same-owner --strip-components=1 -C ${fresh} && sha256sum ${archive} > ${fresh}/.archive",
        "{ test ! -e ${title} || mv ${title} ${old}; } && mv ${fresh} ${title} && rm -rf ${old}",
    ], ' && '),
    unless   => "sha256sum --check --status ${title}/.archive",
    path     => ['/usr/bin', '/bin'],
    provider => shell,
    require  => File[$archive],
  }
}

#!/bin/sh
# Usage: need_tools.sh WHAT TOOL=PACKAGE...
# Says which of the tools for WHAT are missing here, all at once, and which Debian packages have them.
what=$1
shift
missing=
packages=

for pair in "$@"; do
  command -v "${pair%%=*}" > /dev/null && continue
  missing="$missing ${pair%%=*}"
  packages="$packages ${pair#*=}"
done
[ -z "$missing" ] && exit 0
echo "edgekern: $what needs what is missing here:$missing" \
  "(Debian and Ubuntu: apt-get install --no-install-recommends$packages)" >&2
exit 1

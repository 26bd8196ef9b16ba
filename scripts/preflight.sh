#!/bin/sh
# Usage: preflight.sh PYTHON
# Says what a fresh machine lacks before anything is built, all of it at once, and what to install.
python=$1
missing=

fail() {
  echo "edgekern: $1" >&2
  exit 1
}

command -v "$python" > /dev/null || fail "no $python here; install Python 3.11 to 3.13, or say make PYTHON=..."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
case $version in
  3.11 | 3.12 | 3.13) ;;
  *) fail "$python is Python $version; the pinned versions are for 3.11 to 3.13, so say make PYTHON=python3.12" ;;
esac

"$python" -c 'import ensurepip, venv' 2> /dev/null || missing="$missing python$version-venv"
"$python" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2> /dev/null ||
  missing="$missing python$version-dev"
command -v "${CXX:-c++}" > /dev/null || missing="$missing g++"
[ -z "$missing" ] || fail "missing here:$missing (Debian and Ubuntu: apt-get install$missing)"

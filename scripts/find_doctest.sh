#!/bin/sh
# Usage: find_doctest.sh FOLDER
# Prints the include folder that holds doctest/doctest.h, the one header the C++ tests need beyond the standard library.
# Where the compiler has none, Debian's package is downloaded and unpacked into FOLDER, which needs no root.
folder=$1

for include in /usr/include /usr/local/include /opt/homebrew/include; do
  if [ -f "$include/doctest/doctest.h" ]; then
    echo "$include"
    exit 0
  fi
done

if command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null; then
  (cd "$folder" && apt-get download doctest-dev && dpkg-deb -x doctest-dev_*.deb .) >&2
fi
if [ -f "$folder/usr/include/doctest/doctest.h" ]; then
  echo "$folder/usr/include"
  exit 0
fi
echo "edgekern: the C++ tests need doctest/doctest.h; install it" \
  "(Debian, Ubuntu: doctest-dev; Fedora: doctest-devel; Homebrew: doctest)" >&2
exit 1

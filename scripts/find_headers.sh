#!/bin/sh
# Usage: find_headers.sh FOLDER HEADER DEBIAN_PACKAGE FEDORA_PACKAGE HOMEBREW_PACKAGE
# Prints the include folder that holds HEADER, of a header-only library that only tests and examples need.
# Where the compiler has none, Debian's package is downloaded and unpacked into FOLDER, which needs no root.
folder=$1 header=$2 debian=$3 fedora=$4 homebrew=$5

for include in /usr/include /usr/local/include /opt/homebrew/include; do
  if [ -f "$include/$header" ]; then
    echo "$include"
    exit 0
  fi
done

if command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null; then
  (cd "$folder" && apt-get download "$debian" && dpkg-deb -x "$debian"_*.deb .) >&2
fi
if [ -f "$folder/usr/include/$header" ]; then
  echo "$folder/usr/include"
  exit 0
fi
echo "edgekern: $header is missing; install it (Debian, Ubuntu: $debian; Fedora: $fedora; Homebrew: $homebrew)" >&2
exit 1

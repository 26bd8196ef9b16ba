#!/usr/bin/env python3
"""Makes a folder of Debian packages of another architecture: to link against, or to run with under qemu-user.

    scripts/debian_sysroot.py --suite bullseye --architecture arm64 build/cross/sysroot libc6-dev libstdc++-10-dev

No root is needed, no package is installed, and no foreign program runs. The folder is made anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from private_apt import PrivateApt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", required=True, help="the Debian release: bullseye, bookworm, ...")
    parser.add_argument("--architecture", required=True, help="Debian's name of it: arm64, armhf, ...")
    parser.add_argument("--mirror", help="the Debian mirror to download from; default: the one this machine uses")
    parser.add_argument("folder", type=Path)
    parser.add_argument("packages", nargs="+", help="each comes with all it depends on")
    options = parser.parse_args()
    try:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise RuntimeError(f"{tool} is needed and not installed; this works on Debian and Ubuntu")
        folder = options.folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            apt = PrivateApt(Path(scratch), options.mirror, options.suite, options.architecture)
            apt.download(*options.packages)
            apt.unpack(Path(scratch) / "tree")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / "tree").rename(folder)
    except (OSError, RuntimeError) as error:
        print(f"debian_sysroot: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

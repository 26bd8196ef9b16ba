"""Debian packages of any suite and architecture, unpacked into a folder.

Nothing else on this machine is read or changed: apt gets its own state, and packages are unpacked, not installed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class PrivateApt:
    """apt with all of its state in one folder. Called with "get" or "cache" and arguments, returns what apt prints.

    Raises RuntimeError when a tool, the mirror or a package is missing.
    """

    def __init__(self, folder: Path, mirror: str | None, suite: str, architecture: str) -> None:
        if not KEYRING.exists():
            raise RuntimeError(f"{KEYRING} is missing: install the package debian-archive-keyring")
        self.archives = folder / "cache/archives"
        for part in ("lists/partial", "cache/archives/partial", "dpkg"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "dpkg/status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror or debian_mirror()} {suite} main\n")
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "0",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "dpkg/status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def __call__(self, tool: str, *arguments: str) -> str:
        return run([f"apt-{tool}", "-q", *self.options, *arguments], cwd=self.archives).decode()

    def download(self, *packages: str) -> None:
        """Downloads the packages and all they depend on."""
        self("get", "update")
        self("get", "install", "--yes", "--download-only", *packages)

    def unpack(self, root: Path) -> None:
        """Unpacks what was downloaded. Absolute links become relative, so that they stay inside `root`."""
        root.mkdir(parents=True, exist_ok=True)
        for package in sorted(self.archives.glob("*.deb")):
            run(["dpkg-deb", "-x", package, root])
        for link in (path for path in root.rglob("*") if path.is_symlink()):
            target = os.readlink(link)
            if target.startswith("/"):
                link.unlink()
                link.symlink_to(os.path.relpath(f"{root}{target}", link.parent))


def debian_mirror() -> str:
    """The mirror this machine itself uses."""
    for site in run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]).decode().split():
        if site.rstrip("/").endswith("/debian"):
            return site
    raise RuntimeError("apt has no Debian mirror set up on this machine; name one with --mirror URL")


def run(words: list[str | Path], **options: Any) -> bytes:
    """What the command prints; RuntimeError with its messages if it fails."""
    done = subprocess.run(words, capture_output=True, **options)
    if done.returncode != 0:
        messages = (done.stderr or done.stdout).decode(errors="replace")
        raise RuntimeError(f"`{' '.join(map(str, words))}` ended with {done.returncode}:\n{messages}")
    return done.stdout

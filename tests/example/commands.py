"""Running programs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/cpp"
# CMake and Ninja may be in this Python's environment alone.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command, **environment):
    """A finished process; the caller looks at its return code."""
    return subprocess.run(
        list(map(str, command)),
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(*command, **environment):
    """The standard output of a command that has to succeed."""
    done = run(*command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""The example for two boards, started as on real ones: by its script, and by torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/two_boards"
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a shell script"),
    pytest.mark.not_emulated("real processes, in real time"),
]


def test_two_boards_write_one_text(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = os.environ | {"PYTHON": sys.executable, "PORT": str(port), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, EXAMPLE / "make_model.py", tmp_path], env=env, check=True, timeout=300)
    script = subprocess.run([EXAMPLE / "launch.sh", tmp_path], env=env, capture_output=True, text=True, timeout=300)
    assert script.returncode == 0, script.stderr
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun = subprocess.run(
        [*command, EXAMPLE / "write.py", tmp_path], env=env, capture_output=True, text=True, timeout=300
    )
    assert torchrun.returncode == 0, torchrun.stderr
    texts = [[line for line in done.stdout.splitlines() if "written:" in line] for done in (script, torchrun)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 1
    assert len(texts[0][0].split()) == 21

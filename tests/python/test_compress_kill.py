"""Runs of compress that are killed at random moments end with the weights of one that is not."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tomli_w")

from edgekern.compress.record_file import read_record

ROUNDS = int(os.environ.get("EDGEKERN_TEST_KILLS", "2"))
"""Runs that are killed; EDGEKERN_TEST_KILLS=20 for many."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("recipe", ["everything", "narrower"])
def test_killed_runs_end_with_the_same_bits(tmp_path, recipe):
    seed = random.randrange(10**6)
    script = Path(__file__).with_name("kill_compress.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(ROUNDS), str(seed), recipe],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    print(f"seed {seed}", done.stdout, sep="\n")
    kills = [line.split() for line in done.stdout.splitlines()]
    assert len(kills) == ROUNDS
    assert min(map(len, kills)) >= 1
    whole = tmp_path / "whole"
    expected = read_record(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*"))
    for number in range(ROUNDS):
        folder, said = tmp_path / f"round{number}", f"round {number}, seed {seed}: {kills[number]}"
        record = read_record(folder)
        assert record.complete, said
        assert [stage.outputs for stage in record.stages] == [stage.outputs for stage in expected.stages], said
        assert [stage.inputs for stage in record.stages] == [stage.inputs for stage in expected.stages], said
        assert [s.measured and s.measured.quality for s in record.stages] == [
            s.measured and s.measured.quality for s in expected.stages
        ], said
        assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == files, said
        for name in ("model.safetensors", "edgekern.json"):
            assert (folder / "model" / name).read_bytes() == (whole / "model" / name).read_bytes(), said

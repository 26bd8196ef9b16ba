"""A training that is killed at random moments ends with the bits of one that is not."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROUNDS = int(os.environ.get("EDGEKERN_TEST_KILLS", "4"))
"""Trainings that are killed; EDGEKERN_TEST_KILLS=20 for many."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_trainings_end_with_the_same_bits(tmp_path):
    seed = random.randrange(10**6)
    script = Path(__file__).with_name("kill_fit.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(ROUNDS), str(seed)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    kills = [int(line) for line in done.stdout.split()]
    assert len(kills) == ROUNDS
    assert min(kills) >= 1
    expected = torch.load(tmp_path / "whole" / "weights.pt", weights_only=True)
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert [json.loads(line)["step"] for line in log.splitlines() if "loss" in line] == list(range(1, 61))
    for number in range(ROUNDS):
        folder = tmp_path / f"round{number}"
        weights = torch.load(folder / "weights.pt", weights_only=True)
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            assert torch.equal(tensor, expected[name]), f"{name} of round {number}, seed {seed}"
        assert (folder / "log.jsonl").read_text() == log
        assert sorted(path.name for path in folder.iterdir()) == ["fit.pt", "log.jsonl", "weights.pt"]

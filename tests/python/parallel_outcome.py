"""How ranks of test_parallel*.py should have ended."""

from __future__ import annotations

import os

import pytest

NEEDS = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked"),
    pytest.mark.not_emulated("real processes, in real time"),
]


def succeeded(found):
    """What each rank has found."""
    assert [rank["code"] for rank in found] == [0] * len(found), "\n".join(rank["error"] for rank in found)
    return [rank["result"] for rank in found]


def failed(found, *errors, seconds=25):
    """Every rank has ended by itself, in time, and with one of these errors."""
    for rank in found:
        assert rank["code"] == 1, rank
        assert rank["seconds"] < seconds
        assert any(error in rank["error"] for error in errors), rank["error"]

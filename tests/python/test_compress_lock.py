"""compress: one process at a time in the folder of a run."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tomli_w")

from compress_models import PRUNE, QUICK, converted, data, run  # noqa: E402
from forked import finished, start  # noqa: E402

from edgekern import CompressError  # noqa: E402
from edgekern.compress.lock import locked  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def hold(folder, with_child):
    """Takes the lock and keeps it, and has a child that lives on for a while, as data loaders do."""
    with locked(folder):
        if with_child:
            start(time.sleep, 20)
        (folder / "held").touch()
        time.sleep(60)


@pytest.mark.parametrize("with_child", [False, True])
def test_a_second_process_is_told_and_changes_nothing(tmp_path, with_child):
    folder = tmp_path / "out"
    run(folder, converted(PRUNE))
    child = start(hold, folder, with_child)
    try:
        while not (folder / "held").exists():
            time.sleep(0.01)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        for options in ({}, {"restart": True}):
            with pytest.raises(CompressError, match=f"{re.escape(str(folder))} is in use: process {child}.*another"):
                run(folder, converted(PRUNE), **options)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    finally:
        os.kill(child, signal.SIGKILL)
    assert not finished(child)
    (folder / "held").unlink()
    assert run(folder, converted(PRUNE), restart=True).record.complete  # a killed process holds nothing


def test_a_run_inside_of_another_is_told_too(tmp_path):
    """A function of the user's that compresses into the same folder: it would wait for itself."""

    def evaluate(model):
        run(tmp_path / "out", converted(PRUNE))
        return 0.0

    with pytest.raises(CompressError, match="in use"):
        run(tmp_path / "out", converted(QUICK), given=data(evaluate=evaluate))
    done = run(tmp_path / "out", converted(QUICK), given=data(evaluate=lambda model: 0.5))
    assert done.record.complete


def test_a_folder_of_something_else_gets_no_lock(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CompressError, match=r"holds notes\.txt"):
        run(tmp_path, converted(PRUNE))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

"""The command line as its users meet it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from edgekern import kernels


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "edgekern_cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_json(*arguments, **environment):
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_lists_the_commands_and_needs_no_torch():
    done = run("--help")
    assert done.returncode == 0
    for command in ("info", "demo", "bench"):
        assert command in done.stdout


def test_the_commands_are_found_without_importing_torch():
    code = "import sys, edgekern.cli.app; print([m for m in ('transformers', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_info_measures_both_ceilings():
    info = run_json("info", "--json", "--threads", "2")
    assert info["isa"] == kernels.default_isa()
    assert info["cpu"] == kernels.cpu()["name"]
    assert [row["threads"] for row in info["limits"]] == [1, 2]
    for row in info["limits"]:
        assert row["macs_per_second"] > 1e8
        assert row["bytes_per_second"] > 1e8
    assert {isa["name"] for isa in info["isas"]} >= {"scalar"}


def test_info_says_why_an_isa_was_chosen():
    info = run_json("info", "--json", "--no-measure")
    assert info["why"].startswith("the best this CPU runs") or info["isa_forced"]
    assert info["limits"] == []
    forced = run_json("info", "--json", "--no-measure", EDGEKERN_ISA="scalar")
    assert (forced["isa"], forced["why"]) == ("scalar", "EDGEKERN_ISA=scalar asks for it")


def test_info_prints_the_same_facts_as_a_table():
    done = run("info", "--no-measure", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for text in (kernels.cpu()["name"], kernels.default_isa(), "Threads"):
        assert text in done.stdout


def test_bench_compares_with_torch():
    pytest.importorskip("torch")
    result = run_json("bench", "-m", "4", "-k", "64", "-n", "96", "--rounds", "2", "--threads", "1", "--format", "json")
    assert result["case"] == "Linear, 4 x 64 to 4 x 96"
    assert result["machine"]["threads"] == 1
    names = [row["variant"] for row in result["rows"]]
    assert names == ["torch float32", "torch bfloat16", "edgekern int8, float32 outside"]
    for row in result["rows"]:
        assert 0 < row["min"] <= row["p50"] <= row["p95"]
        assert row["gmacs_per_second"] == pytest.approx(4 * 64 * 96 / row["p50"] / 1e6)
    assert result["rows"][0]["speedup"] == 1.0


def test_bench_prints_markdown():
    pytest.importorskip("torch")
    done = run(
        "bench", "-m", "1", "-k", "32", "-n", "32", "--rounds", "1", "--dtype", "bfloat16", "--format", "markdown"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2:4] == ["|  | p50 | p95 | min | rate | speed-up |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    assert lines[-1].startswith("| edgekern int8, bfloat16 outside |")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["info"], {"EDGEKERN_ISA": "mmx"}, "mmx"),
        (["info", "--threads", "0"], {}, "--threads"),
        (["bench", "-m", "0"], {}, "-m"),
        (["bench", "--format", "yaml"], {}, "yaml"),
        (["demo", "--quick", "--output", "/dev/null/folder"], {}, "/dev/null"),
        (["nonsense"], {}, "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_users_mistake_gives_one_message_and_no_traceback(arguments, environment, message):
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_traceback_can_be_asked_for():
    done = run("--traceback", "info", EDGEKERN_ISA="mmx")
    assert done.returncode != 0
    assert "Traceback" in done.stderr

"""The command line as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edgekern import kernels
from edgekern.cli.app import app


def invoke(*arguments):
    """Runs a command in this process."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


def run(*arguments, **environment):
    """Runs a command in a process of its own: for what happens before and around the commands."""
    command = [sys.executable, "-m", "edgekern_cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def invoke_json(*arguments):
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_help_lists_the_commands():
    done = invoke("--help")
    assert done.exit_code == 0
    for command in ("info", "demo", "bench", "energy"):
        assert command in done.stdout


def test_help_loads_nothing_heavy():
    code = "import sys, edgekern.cli.app; print({'transformers', 'matplotlib', 'scipy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr


def test_info_measures_both_ceilings():
    info = invoke_json("info", "--json", "--threads", "2")
    assert info["isa"] == kernels.default_isa()
    assert info["cpu"] == kernels.cpu()["name"]
    assert [row["threads"] for row in info["limits"]] == [1, 2]
    for row in info["limits"]:
        assert row["macs_per_second"] > 1e8
        assert row["bytes_per_second"] > 1e8
    assert {isa["name"] for isa in info["isas"]} >= {"scalar"}


def test_info_says_why_an_isa_was_chosen():
    info = invoke_json("info", "--json", "--no-measure")
    assert info["why"].startswith("the best this CPU runs") or info["isa_forced"]
    assert info["limits"] == []
    forced = json.loads(run("info", "--json", "--no-measure", EDGEKERN_ISA="scalar").stdout)
    assert (forced["isa"], forced["why"]) == ("scalar", "EDGEKERN_ISA=scalar asks for it")


def test_info_prints_the_same_facts_as_a_table():
    done = invoke("info", "--no-measure")
    assert done.exit_code == 0
    for text in (kernels.cpu()["name"], kernels.default_isa(), "Threads"):
        assert text in done.stdout


def test_bench_compares_with_torch():
    pytest.importorskip("torch")
    shape = ("-m", "4", "-k", "64", "-n", "96")
    result = invoke_json("bench", *shape, "--rounds", "2", "--threads", "1", "--format", "json")
    assert result["case"] == "Linear, 4 x 64 to 4 x 96"
    assert result["machine"]["threads"] == 1
    names = [row["variant"] for row in result["rows"]]
    assert names == ["torch float32", "torch bfloat16", "edgekern int8, float32 outside"]
    for row in result["rows"]:
        assert 0 < row["min"] <= row["p50"] <= row["p95"]
        assert row["gmacs_per_second"] == pytest.approx(4 * 64 * 96 / row["p50"] / 1e6)
    assert result["rows"][0]["speedup"] == 1.0


def test_bench_of_a_convolution():
    pytest.importorskip("torch")
    shape = ("-i", "8", "-o", "16", "-s", "10", "-k", "3", "--stride", "2", "-g", "2", "--batch", "3")
    result = invoke_json("bench", "conv", *shape, "--rounds", "1", "--threads", "1", "--format", "json")
    assert result["case"] == "Conv2d, 3 x 3, stride 2, 2 groups, 3 x 8 x 10 x 10 to 16 channels"
    assert [row["variant"] for row in result["rows"]][::2] == ["torch float32", "edgekern int8, float32 outside"]
    macs = 3 * 16 * 5 * 5 * 4 * 9
    assert all(row["gmacs_per_second"] == pytest.approx(macs / row["p50"] / 1e6) for row in result["rows"])


def test_bench_prints_markdown():
    pytest.importorskip("torch")
    shape = ("-m", "1", "-k", "32", "-n", "32")
    done = invoke("bench", *shape, "--rounds", "1", "--dtype", "bfloat16", "--format", "markdown")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[2:4] == [
        "|  | p50 | p95 | min | rate | speed-up | J/inference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    assert lines[-3].startswith("| edgekern int8, bfloat16 outside |")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--threads", "0"], "--threads"),
        (["bench", "-m", "0"], "-m"),
        (["bench", "--format", "yaml"], "yaml"),
        (["bench", "conv", "-k", "0"], "-k"),
        (["nonsense"], "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_explained(arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["info"], {"EDGEKERN_ISA": "mmx"}, "mmx"),
        (["demo", "--quick", "--output", "/dev/null/folder"], {}, "/dev/null"),
    ],
    ids=["isa", "folder"],
)
def test_a_mistake_gives_one_line_and_no_traceback(arguments, environment, message):
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgekern: ")
    assert done.stdout == ""


def test_traceback_can_be_asked_for():
    done = run("--traceback", "info", EDGEKERN_ISA="mmx")
    assert done.returncode != 0
    assert "Traceback" in done.stderr

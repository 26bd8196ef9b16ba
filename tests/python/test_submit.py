"""`edgekern bench --submit`: the file is complete and readable, and says what board it comes from."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from edgekern import kernels
from edgekern.cli import submit
from edgekern.cli.app import app
from edgekern.report.board import board_model, read_sensors


@pytest.fixture
def two_small_layers(monkeypatch):
    monkeypatch.setattr(submit, "LAYERS", ((1, 32, 48), (2, 48, 32)))


def invoke(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "200"})


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def pi(tmp_path):
    """The files of a board with one sensor that works, one that does not, and two groups of cores."""
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    write(tmp_path / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "48300\n")
    write(tmp_path / "sys/class/thermal/thermal_zone1/temp", "broken\n")
    for policy, cores, current in ((0, "0 1", "1500000"), (2, "2 3", "2400000")):
        folder = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{policy}"
        write(folder / "related_cpus", f"{cores}\n")
        write(folder / "scaling_governor", "ondemand\n")
        write(folder / "scaling_cur_freq", f"{current}\n")
    return tmp_path


def test_a_board_is_described(pi):
    assert board_model(pi) == "Raspberry Pi 5 Model B Rev 1.0"
    assert read_sensors(pi) == {
        "temperatures": [{"sensor": "cpu-thermal", "celsius": 48.3}, {"sensor": None, "celsius": None}],
        "clocks": [
            {"cores": "0 1", "governor": "ondemand", "mhz": 1500.0, "max_mhz": None},
            {"cores": "2 3", "governor": "ondemand", "mhz": 2400.0, "max_mhz": None},
        ],
    }


def test_a_machine_without_such_files_is_none(tmp_path):
    assert board_model(tmp_path) is None
    assert read_sensors(tmp_path) == {"temperatures": None, "clocks": None}


def test_the_file_holds_the_machine_and_every_layer(two_small_layers, tmp_path):
    path = tmp_path / "board.jsonl"
    done = invoke("--submit", path, "--rounds", 1, "--threads", 1, "--dtype", "bfloat16")
    assert done.exit_code == 0, done.output
    assert f"Wrote {path}" in done.output
    header, *layers, end = map(json.loads, path.read_text().splitlines())
    assert (header["kind"], header["schema"], header["benchmark"]) == ("header", 1, "board")
    assert header["cpu"] == kernels.cpu()["name"]
    assert header["features"] == kernels.cpu()["features"]
    assert (header["isa"], header["threads"], header["rounds"]) == (kernels.default_isa(), 1, 1)
    assert {"edgekern", "python", "torch"} <= header["versions"].keys()
    assert {"board", "date", "load", "sensors", "system"} <= header.keys()
    assert [(layer["kind"], layer["m"], layer["k"], layer["n"]) for layer in layers] == [
        ("layer", 1, 32, 48),
        ("layer", 2, 48, 32),
    ]
    assert done.stdout.count("no energy was measured") + done.stdout.count("of the whole machine") == 1
    for layer in layers:
        assert layer["energy"].keys() == {"source", "scope", "why_none"}
        assert layer["sensors"].keys() == {"temperatures", "clocks"}
        assert [row["variant"] for row in layer["rows"]] == [
            "torch float32",
            "torch bfloat16",
            "edgekern int8, bfloat16 outside",
        ]
        assert all(0 < row["min"] <= row["p50"] for row in layer["rows"])
    assert end["kind"] == "end"
    assert end["seconds"] > 0


def test_a_file_is_not_overwritten(two_small_layers, tmp_path):
    path = tmp_path / "board.jsonl"
    path.write_text("precious")
    done = invoke("--submit", path, "--rounds", 1)
    assert isinstance(done.exception, FileExistsError)
    assert "exists already" in str(done.exception)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_found_out_before_timing(monkeypatch, tmp_path):
    monkeypatch.setattr(submit, "measure", lambda *_: pytest.fail("timed before the file could be opened"))
    done = invoke("--submit", tmp_path / "nowhere/board.jsonl")
    assert isinstance(done.exception, FileNotFoundError)


@pytest.mark.parametrize("option", [["-m", "8"], ["--minilm"], ["--format", "json"]], ids=" ".join)
def test_options_that_the_fixed_layers_settle_are_refused(option, tmp_path):
    path = tmp_path / "board.jsonl"
    done = invoke("--submit", path, *option)
    assert done.exit_code == 2
    assert f"{option[0]} has no effect with --submit" in done.output
    assert not path.exists()

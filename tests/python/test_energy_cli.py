"""`edgekern energy`, and the columns of joules in the benches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from sensor_trees import INA226, INA3221, PI5, rapl, write, zone
from test_cli import invoke, invoke_json

from edgekern.energy import EnergyMeter, Host, choose, host
from edgekern.report.energy import joules_text

WHY = "no energy was measured: "


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A machine whose files are all below this folder."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(choose, "Host", lambda: Host(root, "aarch64"))
    return root


@pytest.mark.parametrize("status", [0, 3])
def test_the_exit_status_and_the_output_are_the_commands(status, capfd):
    done = invoke("energy", "--", sys.executable, "-c", f"print('hello'); raise SystemExit({status})")
    assert done.exit_code == status
    assert done.stdout == ""
    assert capfd.readouterr().out == "hello\n"
    assert " s" in done.stderr or "seconds" in done.stderr


def test_options_of_the_command_are_its_own(capfd):
    invoke("energy", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--list", "-o", "json")
    assert capfd.readouterr().out == "['--list', '-o', 'json']\n"


def test_json_is_one_line():
    done = invoke("energy", "-o", "json", "--", sys.executable, "-c", "print('hello')")
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["kind"], result["exit_status"]) == ("energy", 0)
    assert result["command"][1:] == ["-c", "print('hello')"]
    assert result["seconds"] > 0
    assert (result["joules"] is None) == bool(result["why_none"])


def test_a_command_that_is_killed_gives_what_shells_give():
    done = invoke("energy", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.exit_code == 128 + 9


def test_a_command_that_does_not_exist(tmp_path):
    assert invoke("energy", "--", str(tmp_path / "none")).exit_code == 127
    (tmp_path / "plain").write_text("no program")
    done = invoke("energy", "--", str(tmp_path / "plain"))
    assert (done.exit_code, f"{tmp_path}/plain: permission denied" in done.stderr) == (126, True)


def test_ctrl_c_is_for_the_command_and_the_figures_come_nevertheless():
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('bye', flush=True), sys.exit(5)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-m", "edgekern_cli", "energy", "--", sys.executable, "-c", code]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout.readline() == "ready\n"
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (5, "bye\n")
    assert " s" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a command to run"),
        (("--list", "--", "true"), "expected a command to run"),
        (("--interval", "0", "--", "true"), "--interval"),
        (("--idle", "-1", "--", "true"), "--idle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_explained(arguments, message):
    done = invoke("energy", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_an_unknown_scope_is_explained():
    with pytest.raises(ValueError, match="scope: expected one of package, board"):
        invoke("energy", "--scope", "house", "--", "true")


def test_figures_of_a_sensor(tree):
    write(tree, INA226)
    done = invoke("energy", "--idle", "0.75", "--", sys.executable, "-c", "import time; time.sleep(0.8)")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    header, cells = done.stderr.splitlines()[:2]
    assert header.split()[:3] == ["joules", "seconds", "watts"]
    joules, seconds, watts, above, source, scope = cells.split()[:6]
    assert float(joules) == pytest.approx(4.15 * float(seconds), rel=0.01)
    assert (watts, source, scope) == ("4.15", "hwmon:ina226:power1", "rail")
    assert abs(float(above)) < 0.01


def test_without_a_sensor_one_sentence_says_why(tree):
    done = invoke("energy", "--", "true")
    assert done.exit_code == 0
    assert done.stderr.count(WHY) == 1
    assert "sudo tee /sys/bus/i2c/devices/i2c-1/new_device" in done.stderr


def test_the_list_of_sensors(tree):
    write(tree, {**INA3221, **PI5})
    done = invoke("energy", "--list")
    assert done.exit_code == 0
    for text in ("hwmon:ina3221:VDD_IN", "board", "hwmon:ina3221:VDD_SOC", "rail"):
        assert text in done.stdout
    listed = invoke_json("energy", "--list", "--output", "json")
    assert [sensor["source"] for sensor in listed["sensors"] if sensor["used"]] == ["hwmon:ina3221:VDD_IN"]
    assert len(listed["sensors"]) == 3
    assert any("vcgencmd" in reason for reason in listed["missing"])


def test_the_list_names_what_may_not_be_read(tree, monkeypatch):
    write(tree, rapl())

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(host, "read_bytes", refuse)
    done = invoke("energy", "--list")
    assert "sudo chmod a+r" in done.stdout
    assert invoke_json("energy", "--list", "-o", "json")["sensors"] == []


# -------------------------------------------------------------------------------------------------------- the benches

SMALL = ("bench", "-m", "2", "-k", "32", "-n", "32", "--rounds", "1", "--threads", "1")


def test_bench_without_a_sensor_has_dashes_and_one_sentence(tree):
    pytest.importorskip("torch")
    done = invoke(*SMALL, "--format", "markdown")
    header, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert header.endswith("| speed-up | J/inference |")
    assert all(row.endswith(" | - |") for row in rows)
    assert done.stdout.count(WHY) == 1
    assert invoke(*SMALL).stdout.replace("\n", " ").count(WHY) == 1
    result = invoke_json(*SMALL, "--format", "json")
    assert [row["joules"] for row in result["rows"]] == [None] * 3
    assert result["energy"]["source"] is None
    assert result["energy"]["why_none"].startswith(WHY)


def test_bench_with_a_sensor_has_joules(tree):
    pytest.importorskip("torch")
    write(tree, INA226)
    result = invoke_json(*SMALL, "--format", "json")
    assert result["energy"] == {"source": "hwmon:ina226:power1", "scope": "rail", "why_none": None}
    for row in result["rows"]:  # calls may be disturbed by others, but are hardly shorter than the shortest before
        assert row["joules"] > 4.15 * 0.5 * row["min"] / 1000
    done = invoke(*SMALL, "--format", "markdown")
    assert "J by hwmon:ina226:power1, rail; of the whole machine" in done.stdout
    assert WHY not in done.stdout


def test_joules_of_a_call_are_those_of_its_time(tree):
    pytest.importorskip("torch")
    from edgekern.bench import Joules

    write(tree, INA226)
    joules = Joules(EnergyMeter(host=Host(tree, "aarch64"), interval=0.05))
    assert joules.of_call(lambda: time.sleep(0.05)) == pytest.approx(0.05 * 4.15, rel=0.5)
    with joules.span() as short:
        time.sleep(0.01)
    assert short.joules is None
    assert short.seconds >= 0.01
    assert "is too short for hwmon:ina226:power1, which needs 0.7 s" in joules.to_dict()["why_none"]


def test_benches_do_not_wait_for_slow_sensors(tree):
    pytest.importorskip("torch")
    from sensor_trees import BATTERY_POWER

    from edgekern.bench import Joules

    write(tree, BATTERY_POWER)
    assert Joules().to_dict()["source"] is None
    assert "battery changes too seldom: it needs 30 s" in Joules().why_none


def test_a_token_takes_its_share_of_the_joules(tree):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5")
    from tiny_llama import tiny

    from edgekern.bench import Joules, token_costs

    write(tree, rapl())
    meter = EnergyMeter(host=Host(tree, "x86_64"), interval=None)
    counted = iter(range(2_000_000, 10**9, 3_000_000))

    class Slow(type(tiny())):
        """Takes long enough for the sensor, and 3 J a call."""

        def forward(self, *args, **kwargs):
            time.sleep(0.15)
            write(tree, {zone("0"): f"{next(counted)}\n"})
            return super().forward(*args, **kwargs)

    model = tiny()
    model.__class__ = Slow
    costs = token_costs({"a": model}, 96, prompts=(6,), writes=(2,), repeats=2, joules=Joules(meter))
    assert costs["pp6"]["a"].mean_joules == pytest.approx(3 / 6)
    assert costs["tg2"]["a"].mean_joules == pytest.approx(3)
    assert len(costs["pp6"]["a"].joules) == len(costs["pp6"]["a"].rates) == 2


def test_cells():
    assert (joules_text(None), joules_text(0.00012345), joules_text(12.0)) == ("-", "0.000123", "12")

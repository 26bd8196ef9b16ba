"""power_plan: every point once, the best ones marked, and everything put back."""

from __future__ import annotations

import json
import os

import pytest

torch = pytest.importorskip("torch")

from sensor_trees import INA226, write  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import kernels  # noqa: E402
from edgekern.energy import EnergyMeter, Host, governors  # noqa: E402
from edgekern.energy.points import PowerPlan, PowerPoint  # noqa: E402

QUICK = {"seconds": 0.02, "progress": False}
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("edgekern.energy.plan._WARM_UP_SECONDS", 0.0)


def model():
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64))


@pytest.fixture
def cpufreq(tmp_path):
    """Two groups of cores, each with a governor of its own."""
    for policy, now in ((0, "schedutil"), (4, "ondemand")):
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        write(
            tmp_path,
            {
                f"{folder}/scaling_governor": f"{now}\n",
                f"{folder}/scaling_available_governors": "ondemand userspace performance schedutil\n",
            },
        )
    return Host(tmp_path, "aarch64")


def set_now(host):
    return [path.read_text().strip() for path in sorted(host.root.rglob("scaling_governor"))]


def test_without_a_sensor_there_are_times_and_the_sentence(tmp_path):
    plan = ek.power_plan(
        model(), torch.randn(4, 64), threads=[1], meter=EnergyMeter(host=Host(tmp_path)), host=Host(tmp_path), **QUICK
    )
    assert [point.format for point in plan] == ["float", "int8", "int4"]
    assert all(point.ms > 0 and point.joules is None and point.watts is None and point.calls >= 1 for point in plan)
    assert plan.least_energy is None
    assert plan.fastest.ms == min(point.ms for point in plan)
    assert plan.why_none.startswith("no energy was measured: ")
    assert plan.left_out == {
        "governors": f"there is no {tmp_path}/sys/devices/system/cpu/cpufreq/policy*: no driver sets frequencies"
    }
    text = str(plan)
    assert text.count("no energy was measured") == 1
    assert "left out: governors" in text
    assert "governor  " not in text.splitlines()[0]
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["rows"][0]["joules"] is None
    assert data["least_energy"] is None
    assert data["fastest"]["format"] == plan.fastest.format


def test_with_a_sensor_there_are_joules(tmp_path):
    write(tmp_path, {**INA226, "sys/class/hwmon/hwmon2/update_interval": "1\n"})
    host = Host(tmp_path, "aarch64")
    plan = ek.power_plan(
        model(), torch.randn(4, 64), threads=[1], formats=["float"], meter=EnergyMeter(host=host), host=host, **QUICK
    )
    (point,) = plan
    assert (plan.source, plan.scope, plan.why_none) == ("hwmon:ina226:power1", "rail", "")
    assert point.watts == pytest.approx(4.15)
    assert point.joules * point.calls > 0.99 * 4.15 * 0.5, "as long as the sensor needs"
    assert plan.least_energy is point


def test_the_model_and_the_threads_stay_as_they_are(tmp_path):
    original = model().train()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    threads = torch.get_num_threads()
    seen = []

    def work(tried):
        seen.append(
            (type(tried[0]).__name__, torch.get_num_threads(), tried.training, torch.is_inference_mode_enabled())
        )
        return tried(torch.randn(2, 64))

    plan = ek.power_plan(original, work, threads=range(1, CORES + 1), formats=["float", ek.Int8()], **QUICK)
    assert torch.get_num_threads() == threads
    assert original.training
    assert type(original[0]) is nn.Linear
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())
    expected = [(layer, count, False, True) for layer in ("Linear", "Int8Linear") for count in range(1, CORES + 1)]
    assert list(dict.fromkeys(seen)) == expected
    assert [(point.format, point.threads) for point in plan] == [
        (name, count) for name in ("float", "Int8()") for count in range(1, CORES + 1)
    ]


def test_default_threads_end_with_all_cores():
    plan = ek.power_plan(model(), (torch.randn(2, 64),), formats=["float"], **QUICK)
    assert plan.rows[0].threads == 1
    assert plan.rows[-1].threads == CORES


def test_governors_are_tried_and_put_back(cpufreq):
    seen = []

    def work(tried):
        seen.append(tuple(set_now(cpufreq)))

    plan = ek.power_plan(model(), work, threads=[1], formats=["float", "int8"], host=cpufreq, **QUICK)
    assert list(dict.fromkeys(seen)) == [(name, name) for name in ("ondemand", "performance", "schedutil")]
    assert [point.governor for point in plan] == 2 * ["ondemand", "performance", "schedutil"]
    assert set_now(cpufreq) == ["schedutil", "ondemand"]
    assert plan.left_out == {}
    only = ek.power_plan(
        model(), work, threads=[1], formats=["float"], governors=["performance"], host=cpufreq, **QUICK
    )
    assert [point.governor for point in only] == ["performance"]
    written = [path.stat().st_mtime_ns for path in cpufreq.root.rglob("scaling_governor")]
    none = ek.power_plan(model(), work, threads=[1], formats=["float"], governors=(), host=cpufreq, **QUICK)
    assert [(point.governor, none.left_out) for point in none] == [(None, {})]
    assert written == [path.stat().st_mtime_ns for path in cpufreq.root.rglob("scaling_governor")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_governors_and_threads_are_put_back_whatever_happens(cpufreq, error):
    threads = torch.get_num_threads()

    def work(tried):
        assert set_now(cpufreq) == ["performance", "performance"]
        raise error("on purpose")

    with pytest.raises(error, match="on purpose"):
        ek.power_plan(model(), work, threads=[1], governors=["performance"], host=cpufreq, **QUICK)
    assert set_now(cpufreq) == ["schedutil", "ondemand"]
    assert torch.get_num_threads() == threads


def test_a_governor_that_cannot_be_put_back_is_an_error_that_says_how(cpufreq):
    file = cpufreq.root / "sys/devices/system/cpu/cpufreq/policy4/scaling_governor"

    def work(tried):
        file.unlink(missing_ok=True)
        file.mkdir(exist_ok=True)

    with pytest.raises(
        RuntimeError, match=r"policy4/scaling_governor could not be set to ondemand \(Is a directory\); run: echo"
    ):
        ek.power_plan(model(), work, threads=[1], formats=["float"], governors=["performance"], host=cpufreq, **QUICK)
    assert set_now_of(cpufreq, 0) == "schedutil"


def set_now_of(host, policy):
    return (host.root / f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_governor").read_text().strip()


def test_a_driver_that_takes_no_notice_is_found_out(cpufreq, monkeypatch):
    monkeypatch.setattr(type(cpufreq.root), "write_text", lambda self, text: len(text))
    with pytest.raises(RuntimeError, match=r"could not be set to performance \(schedutil\); run: echo performance"):
        ek.power_plan(model(), torch.randn(1, 64), threads=[1], governors=["performance"], host=cpufreq, **QUICK)


def test_governors_that_may_not_be_set_are_left_out_with_the_command(cpufreq, monkeypatch):
    monkeypatch.setattr(governors.os, "access", lambda path, mode: False)
    plan = ek.power_plan(model(), torch.randn(1, 64), threads=[1], formats=["float"], host=cpufreq, **QUICK)
    assert [point.governor for point in plan] == [None]
    assert "may not be written by this user; run as root, or: sudo chmod a+w" in plan.left_out["governors"]


def test_a_format_that_does_not_suit_is_left_out_with_the_reason():
    convolution = nn.Sequential(nn.Conv1d(4, 4, 3))
    plan = ek.power_plan(convolution, torch.randn(1, 4, 8), threads=[1], formats=["float", "int4"], **QUICK)
    assert [point.format for point in plan] == ["float"]
    assert "nothing to convert" in plan.left_out["int4"]
    with pytest.raises(ValueError, match=r"formats: nothing to measure; .*nothing to convert"):
        ek.power_plan(convolution, torch.randn(1, 4, 8), threads=[1], formats=["int4"], **QUICK)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": len}, TypeError, "model: expected a torch.nn.Module"),
        ({"work": 3}, TypeError, "work: expected a tensor, .* or a function of the model; got int"),
        ({"target": "house"}, ValueError, "unknown target 'house'"),
        ({"threads": []}, ValueError, r"threads: expected whole numbers from 1 to \d+, the cores there are; got \[\]"),
        ({"threads": [0]}, ValueError, "threads: expected whole numbers"),
        ({"threads": [CORES + 1]}, ValueError, "threads: expected whole numbers"),
        ({"formats": "int8"}, TypeError, "formats: expected a list of names or schemes, got str"),
        ({"formats": []}, ValueError, "formats: expected at least one"),
        ({"formats": ["int5"]}, ValueError, "formats: expected 'float' or a scheme that convert_ takes: .*'int5'"),
        ({"governors": "powersave"}, TypeError, "governors: expected a list of names or None, got 'powersave'"),
        ({"seconds": 0.0}, ValueError, "seconds: expected a finite number above 0, got 0.0"),
        ({"meter": 3}, TypeError, "meter: expected an EnergyMeter or None, got int"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        ek.power_plan(**{"model": model(), "work": torch.randn(1, 64), "threads": [1], **QUICK, **change})


def test_an_unknown_governor_is_explained(cpufreq):
    with pytest.raises(ValueError, match="there is no turbo here; there are ondemand, performance, schedutil"):
        ek.power_plan(model(), torch.randn(1, 64), governors=["turbo"], host=cpufreq, **QUICK)


def test_other_machines_cannot_be_planned_for():
    other = "neon_i8mm" if kernels.default_isa() != "neon_i8mm" else "avx2"
    with pytest.raises(ValueError, match=f"only 'this CPU' .* got '{other}'; run power_plan on that machine"):
        ek.power_plan(model(), torch.randn(1, 64), other, **QUICK)
    assert ek.power_plan(model(), torch.randn(1, 64), kernels.default_isa(), threads=[1], formats=["float"], **QUICK)


def points(joules):
    return tuple(
        PowerPoint(name, threads, None, ms, spent, None if spent is None else 1000 * spent / ms, 10)
        for (name, threads, ms), spent in zip(
            (("float", 1, 8.0), ("float", 4, 3.0), ("int8", 1, 4.0), ("int8", 4, 1.5)), joules, strict=True
        )
    )


def test_the_best_points_are_marked():
    plan = PowerPlan(points((0.03, 0.04, 0.01, 0.02)), "neon", "rapl", "package", "", {})
    assert plan.fastest.name == "int8, 4 threads"
    assert plan.least_energy.name == "int8, 1 thread"
    lines = str(plan).splitlines()
    assert lines[3].endswith("least energy")
    assert lines[4].endswith("fastest")
    assert "least energy: int8, 1 thread, 0.01 J by rapl (package)" in lines[-1] or "least energy: int8" in str(plan)


@pytest.mark.parametrize(
    "joules", [(0.03, 0.04, 0.01, 0.02), (None,) * 4, (None, 0.04, 0.01, None)], ids=["all", "none", "some"]
)
def test_the_plot_is_a_png(tmp_path, joules):
    pytest.importorskip("matplotlib")
    plan = PowerPlan(points(joules), "neon", "rapl", "package", "", {})
    plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")

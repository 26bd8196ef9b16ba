"""EnergyMeter on recorded trees: the joules are right to 1 %, and what goes wrong has a name."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from sensor_trees import (
    BATTERY_CHARGE,
    BATTERY_CURRENT,
    BATTERY_ENERGY,
    BATTERY_POWER,
    INA226,
    INA3221,
    PI5,
    PMIC,
    PMIC_WATTS,
    rapl,
    write,
    zone,
)

from edgekern.energy import EnergyMeter, Host, find_sensors, host, pmic
from edgekern.energy.host import SensorError


class Machine:
    """A tree of files, a clock, and a program of what changes when."""

    def __init__(self, root, tree, machine="x86_64", pmic=None):
        self.root, self.now, self.pmic = root, 1000.0, pmic
        write(root, tree)
        self.host = Host(root, machine, self._run)

    def _run(self, command):
        if self.pmic is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", command[0])
        if isinstance(self.pmic, Exception):
            raise self.pmic
        return self.pmic

    def meter(self, **options):
        return EnergyMeter(**{"interval": None, "host": self.host, "clock": lambda: self.now, **options})

    def set(self, path, value):
        write(self.root, {path: f"{value}\n"})

    def run(self, meter, seconds, steps, change=lambda share: None):
        """From start to stop; ``change`` is called with the share of the time gone by, before each reading."""
        meter.start()
        begin = self.now
        for step in range(1, steps + 1):
            self.now = begin + seconds * step / steps
            change(step / steps)
            if step < steps:
                meter.sample()
        return meter.stop()


@pytest.fixture
def make(tmp_path):
    return lambda tree, **options: Machine(tmp_path, tree, **options)


# ------------------------------------------------------------------------------------------------- the right joules


def test_rapl_counts_packages_once(make):
    machine = make(rapl(packages=2))

    def change(share):
        for name, joules in (("0", 30), ("0:0", 25), ("0:1", 3), ("0:2", 4), ("1", 12), ("1:0", 9), ("1:2", 5)):
            machine.set(zone(name), 1_000_000 + round(1e6 * joules * share))

    result = machine.run(machine.meter(), 3.0, 7, change)
    assert result.joules == pytest.approx(42)
    assert result.watts == pytest.approx(14)
    assert (result.source, result.scope, result.seconds) == ("rapl", "package", pytest.approx(3))
    assert result.problems == ()
    assert result.why_none == ""


@pytest.mark.parametrize(("question", "joules"), [({"sensor": "rapl-dram"}, 4), ({"scope": "board"}, 50)], ids=str)
def test_memory_and_platform_only_when_asked_for(make, question, joules):
    machine = make(rapl())

    def change(share):
        for name, counted in (("0", 30), ("0:2", 4), ("1", 50)):
            machine.set(zone(name), 5_000_000 + round(1e6 * counted * share))

    machine.set(zone("0:2"), 5_000_000)
    result = machine.run(machine.meter(**question), 2.0, 4, change)
    assert result.joules == pytest.approx(joules)


def test_rapl_wraps_around(make):
    machine = make(rapl())
    wraps_at, begin = 262_143_328_850, 262_143_328_850 - 3_000_000

    def change(share):
        machine.set(zone("0"), (begin + round(20e6 * share)) % wraps_at)

    change(0)
    result = machine.run(machine.meter(), 2.0, 5, change)
    assert result.joules == pytest.approx(20)
    assert result.problems == ()


def test_each_package_wraps_on_its_own_and_more_than_once(make):
    machine = make(rapl(packages=2))
    for name in ("0", "1"):
        machine.set(f"sys/class/powercap/intel-rapl:{name}/max_energy_range_uj", 10_000_000)

    def change(share):
        machine.set(zone("0"), round(35e6 * share) % 10_000_000)
        machine.set(zone("1"), (7_000_000 + round(28e6 * share)) % 10_000_000)

    change(0)
    assert machine.run(machine.meter(), 10.0, 20, change).joules == pytest.approx(63)


@pytest.mark.parametrize("range_is_known", [False, True])
def test_a_counter_that_was_reset_is_not_taken_for_one_that_wrapped(make, range_is_known):
    tree = rapl()
    if not range_is_known:
        del tree["sys/class/powercap/intel-rapl:0/max_energy_range_uj"]
    machine = make(tree)
    counts = iter([4_000_000, 2_000_000, 6_000_000])
    result = machine.run(machine.meter(), 3.0, 3, lambda share: machine.set(zone("0"), next(counts)))
    assert result.joules is None
    assert "went back from 4000000 to 2000000, which no wrap-around explains: it was reset" in result.why_none


def test_ina226_is_integrated_over_the_times_of_its_readings(make):
    machine = make(INA226, machine="aarch64")
    power = "sys/class/hwmon/hwmon2/power1_input"
    meter = machine.meter().start()
    # 4.15 W for 2 s, rising to 8.15 W in 1 s, and that for 0.5 s: readings are not equally far apart.
    for seconds, watts in ((2.0, 4.15), (3.0, 8.15), (3.5, 8.15)):
        machine.now = 1000 + seconds
        machine.set(power, round(1e6 * watts))
        if seconds < 3.5:
            meter.sample()
    result = meter.stop()
    assert result.joules == pytest.approx(2 * 4.15 + (4.15 + 8.15) / 2 + 0.5 * 8.15, rel=1e-6)
    assert (result.source, result.scope) == ("hwmon:ina226:power1", "rail")


def test_ina3221_multiplies_volts_and_amperes_and_takes_the_input(make):
    machine = make(INA3221, machine="aarch64")

    def change(share):
        machine.set("sys/class/hwmon/hwmon1/curr1_input", 1160 + round(1000 * share))

    result = machine.run(machine.meter(), 10.0, 100, change)
    assert result.joules == pytest.approx(10 * 5.064 * (1.160 + 2.160) / 2, rel=0.001)
    assert (result.source, result.scope) == ("hwmon:ina3221:VDD_IN", "board")
    every = machine.run(machine.meter(sensor="all"), 10.0, 10)
    joules = {reading.source: reading.joules for reading in every.readings}
    assert joules == {
        "hwmon:ina3221:VDD_IN": pytest.approx(10 * 5.064 * 2.160),
        "hwmon:ina3221:VDD_CPU_GPU_CV": pytest.approx(10 * 5.056 * 0.320),
        "hwmon:ina3221:VDD_SOC": pytest.approx(10 * 5.056 * 0.288),
    }
    assert every.joules == joules["hwmon:ina3221:VDD_IN"]


def test_of_several_rails_none_is_taken_for_the_machine(make):
    tree = {path: text for path, text in INA3221.items() if "1_" not in path.rpartition("/")[2]}
    machine = make(tree, machine="aarch64")
    result = machine.run(machine.meter(), 10.0, 10)
    assert result.joules is None
    assert "say by sensor= which is meant of hwmon:ina3221:VDD_CPU_GPU_CV, hwmon:ina3221:VDD_SOC" in result.why_none
    asked = machine.run(machine.meter(sensor="hwmon:ina3221:VDD_SOC"), 10.0, 10)
    assert asked.joules == pytest.approx(10 * 5.056 * 0.288)
    both = machine.run(machine.meter(scope="rail"), 10.0, 10)
    assert both.joules is None
    assert [reading.joules for reading in both.readings] == pytest.approx([10 * 5.056 * 0.320, 10 * 5.056 * 0.288])
    assert both.why_none.startswith("none of several figures is the machine's: say by sensor= which is meant of ")


def test_a_channel_that_is_switched_off_is_no_sensor(make):
    machine = make({**INA3221, "sys/class/hwmon/hwmon1/in3_enable": "0\n"}, machine="aarch64")
    assert [sensor.name for sensor in find_sensors(machine.host).sensors] == [
        "hwmon:ina3221:VDD_IN",
        "hwmon:ina3221:VDD_CPU_GPU_CV",
    ]


def test_energy_counters_of_hwmon(make):
    chip = "sys/class/hwmon/hwmon0"
    tree = {f"{chip}/name": "amd_energy\n"}
    for number, label in ((1, "Ecore000"), (2, "Ecore001"), (3, "Esocket0")):
        tree |= {f"{chip}/energy{number}_label": f"{label}\n", f"{chip}/energy{number}_input": "0\n"}
    machine = make(tree)
    result = machine.run(
        machine.meter(),
        2.0,
        4,
        lambda share: [
            machine.set(f"{chip}/energy{i}_input", round(1e6 * joules * share))
            for i, joules in ((1, 4), (2, 5), (3, 11))
        ],
    )
    assert result.joules == pytest.approx(11)
    assert (result.source, result.scope) == ("hwmon:amd_energy", "package")


def test_a_graphics_card_is_not_taken_for_the_machine(make):
    card = {"sys/class/hwmon/hwmon4/name": "amdgpu\n", "sys/class/hwmon/hwmon4/power1_average": "18000000\n"}
    machine = make(card)
    assert machine.run(machine.meter(), 2.0, 4).joules is None
    asked = machine.run(machine.meter(sensor="hwmon:amdgpu:power1"), 2.0, 4)
    assert (asked.joules, asked.scope) == (pytest.approx(36), "device")


def test_two_chips_of_a_kind_have_two_names(make):
    second = {path.replace("hwmon2", "hwmon3"): text for path, text in INA226.items() if "hwmon2" in path}
    machine = make({**INA226, **second}, machine="aarch64")
    names = [sensor.name for sensor in find_sensors(machine.host).sensors]
    assert names == ["hwmon:ina226:power1@hwmon2", "hwmon:ina226:power1@hwmon3"]


def test_pi5_sums_the_rails_that_have_both_current_and_voltage(make):
    machine = make(PI5, machine="aarch64", pmic=PMIC)
    result = machine.run(machine.meter(), 4.0, 5)
    assert result.joules == pytest.approx(4 * PMIC_WATTS, rel=0.001)
    assert (result.source, result.scope) == ("pi5-pmic", "board")
    assert "the sum of 12 rails" in str(result)


def test_pi5_power_is_integrated(make):
    machine = make(PI5, machine="aarch64", pmic=PMIC)

    def change(share):
        machine.pmic = PMIC.replace("current(7)=1.54489000A", f"current(7)={1.54489 + 2 * share:.8f}A")

    result = machine.run(machine.meter(), 4.0, 8, change)
    assert result.joules == pytest.approx(4 * (PMIC_WATTS + 0.8872518), rel=0.001)


@pytest.mark.parametrize(("tree", "watts"), [(BATTERY_POWER, 7.83), (BATTERY_CURRENT, 0.65 * 11.8)], ids=["W", "V x A"])
def test_battery_power(make, tree, watts):
    machine = make(tree)
    result = machine.run(machine.meter(), 60.0, 60)
    assert result.joules == pytest.approx(60 * watts)
    assert (result.source, result.scope, result.problems) == ("battery", "battery", ())


def test_two_batteries_are_summed_while_one_is_in_use(make):
    second = {path.replace("BAT0", "BAT1"): text for path, text in BATTERY_POWER.items() if "BAT0" in path}
    machine = make({**BATTERY_POWER, **second})
    machine.set("sys/class/power_supply/BAT1/status", "Not charging")
    machine.set("sys/class/power_supply/BAT1/power_now", 0)
    assert machine.run(machine.meter(), 60.0, 60).joules == pytest.approx(60 * 7.83)


def test_battery_level_in_watt_hours(make):
    machine = make(BATTERY_ENERGY)
    level = "sys/class/power_supply/BAT0/energy_now"
    # 600 J are 166667 uWh
    result = machine.run(
        machine.meter(), 180.0, 90, lambda share: machine.set(level, 31_000_000 - round(166667 * share))
    )
    assert result.joules == pytest.approx(600, rel=0.001)
    assert result.problems == ()


def test_battery_level_in_ampere_hours_while_its_voltage_falls(make):
    machine = make(BATTERY_CHARGE)

    def change(share):
        machine.set("sys/class/power_supply/BAT0/charge_now", 2_600_000 - round(20_000 * share))
        machine.set("sys/class/power_supply/BAT0/voltage_now", 11_800_000 - round(400_000 * share))

    result = machine.run(machine.meter(), 300.0, 100, change)
    assert result.joules == pytest.approx(0.020 * 3600 * 11.6, rel=0.001)


def test_a_level_that_falls_in_few_steps_says_so(make):
    machine = make(BATTERY_ENERGY)
    level = "sys/class/power_supply/BAT0/energy_now"
    result = machine.run(
        machine.meter(), 180.0, 90, lambda share: machine.set(level, 31_000_000 - int(2 * share) * 10_000)
    )
    assert result.joules == pytest.approx(72)
    assert any("fell in 2 steps only: good to 50%" in problem for problem in result.problems)


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_without_a_sensor_everything_is_none_and_one_sentence_says_why(make):
    machine = make({"proc/cpuinfo": "flags\t\t: fpu vme\n"})
    result = machine.run(machine.meter(idle_seconds=0.01), 2.0, 2)
    assert (result.joules, result.watts, result.net_joules, result.source, result.scope) == (None,) * 5
    assert result.seconds == 2.0
    assert result.readings == ()
    for part in (
        "no energy was measured: ",
        f"there is no {machine.root}/sys/class/powercap/intel-rapl:* (run: sudo modprobe intel_rapl_msr)",
        f"no chip in {machine.root}/sys/class/hwmon measures power",
        f"there is no battery in {machine.root}/sys/class/power_supply",
    ):
        assert part in result.why_none
    assert "\n" not in result.why_none
    assert result.to_dict()["joules"] is None
    assert result.why_none in str(result)


def test_the_advice_suits_the_machine(make):
    virtual = make({"proc/cpuinfo": "flags\t\t: fpu hypervisor vme\n"}).meter().why_none
    assert "this is a virtual machine" in virtual
    assert "modprobe" not in virtual
    board = make({}, machine="aarch64").meter().why_none
    assert "echo ina226 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device" in board
    assert "rapl" not in board


def forbid(monkeypatch, *parts):
    """Files whose paths have one of these in them may not be read: tests run as root, who may read anything."""
    read = host.read_bytes

    def guarded(path):
        if any(part in str(path) for part in parts):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(host, "read_bytes", guarded)


def test_permission_denied_names_the_command(make, monkeypatch):
    machine = make(rapl())
    forbid(monkeypatch, "energy_uj")
    result = machine.run(machine.meter(), 2.0, 2)
    assert result.joules is None
    counters = f"{machine.root}/sys/class/powercap/intel-rapl:*/energy_uj"
    assert f"may not be read by this user; run: sudo chmod a+r {counters}" in result.why_none


def test_a_real_refusal_is_one_too(tmp_path):
    import os

    if os.getuid() != 0:
        (tmp_path / "energy").write_text("1")
        (tmp_path / "energy").chmod(0)
    else:
        (tmp_path / "energy").mkdir()  # root may read any file, but no folder as one
    with pytest.raises(
        SensorError, match=r"energy (may not be read by this user; run: sudo chmod a\+r|cannot be read: Is)"
    ):
        host.read_number(tmp_path / "energy")


def test_what_may_not_be_read_is_named_although_another_sensor_is_used(make, monkeypatch):
    machine = make({**rapl(), **BATTERY_POWER})
    forbid(monkeypatch, "energy_uj")
    result = machine.run(machine.meter(), 60.0, 60)
    assert result.source == "battery"
    assert result.joules == pytest.approx(60 * 7.83)
    assert any("sudo chmod a+r" in problem for problem in result.problems)
    assert "sudo chmod a+r" in str(result)


def test_a_sensor_that_vanishes_is_named_with_what_it_counted(make):
    machine = make(INA226, machine="aarch64")

    def change(share):
        if share == 0.5:
            (machine.root / "sys/class/hwmon/hwmon2/power1_input").unlink()

    result = machine.run(machine.meter(), 4.0, 8, change)
    assert result.joules is None
    assert "hwmon2/power1_input is gone; it was read for 1.5 of 4.0 s, and counted 6.225 J" in result.why_none


def test_a_sensor_that_comes_back_leaves_a_remark(make):
    machine = make(INA226, machine="aarch64")
    file = machine.root / "sys/class/hwmon/hwmon2/power1_input"

    def change(share):
        if share == 0.5:
            file.unlink()
        elif share == 0.625:
            file.write_text("4150000\n")

    result = machine.run(machine.meter(), 4.0, 8, change)
    assert result.joules == pytest.approx(4 * 4.15)
    assert any("1 of 9 readings failed; the last: " in problem for problem in result.problems)


def test_a_device_that_is_unplugged_while_it_is_read(make, monkeypatch):
    machine = make(INA226, machine="aarch64")
    meter = machine.meter().start()

    def unplugged(path):
        raise OSError(errno.ENODEV, "No such device", str(path))

    monkeypatch.setattr(host, "read_bytes", unplugged)
    machine.now += 2
    result = meter.stop()
    assert result.joules is None
    assert "power1_input is gone; it was read for 0.0 of 2.0 s" in result.why_none


@pytest.mark.parametrize(
    ("tree", "machine", "message"),
    [
        (rapl(), "x86_64", "intel-rapl:0/energy_uj did not move from 1000000"),
        (
            {**INA226, "sys/class/hwmon/hwmon2/power1_input": "0\n"},
            "aarch64",
            "hwmon2/power1_input read 0 W throughout",
        ),
        (BATTERY_ENERGY, "x86_64", "BAT0 did not fall from 111600"),
        ({**BATTERY_POWER, "sys/class/power_supply/BAT0/power_now": "0\n"}, "x86_64", "BAT0 read 0 W throughout"),
    ],
    ids=["rapl", "ina226", "level", "power"],
)
def test_zeros_are_no_measurement(make, tree, machine, message):
    made = make(tree, machine=machine)
    result = made.run(made.meter(), 150.0, 50)
    assert result.joules is None
    assert result.watts is None
    assert message in result.why_none
    assert any(message in problem for problem in result.problems)


def test_one_of_two_packages_that_does_not_move_spoils_the_sum(make):
    machine = make(rapl(packages=2))
    result = machine.run(machine.meter(), 2.0, 4, lambda share: machine.set(zone("0"), round(1e6 * (1 + 9 * share))))
    assert result.joules is None
    assert "intel-rapl:1/energy_uj did not move" in result.why_none
    assert "intel-rapl:0/energy_uj did not move" not in result.why_none


def test_some_zeros_are_mentioned(make):
    machine = make(INA226, machine="aarch64")
    power = "sys/class/hwmon/hwmon2/power1_input"
    result = machine.run(machine.meter(), 4.0, 4, lambda share: machine.set(power, 0 if share == 0.5 else 4_000_000))
    assert result.joules == pytest.approx(2.0 + 2.0 + 4.0 + 4.075)
    assert any("power1_input read 0 W 1 of 5 times" in problem for problem in result.problems)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_that_is_not_discharging_is_no_sensor(make, status):
    machine = make({**BATTERY_POWER, "sys/class/power_supply/BAT0/status": f"{status}\n"})
    result = machine.run(machine.meter(), 60.0, 6)
    assert result.joules is None
    assert f"BAT0/status says {status}" in result.why_none
    assert "only while Discharging; pull the plug" in result.why_none


def test_a_plug_put_in_for_a_moment_spoils_the_sum(make):
    machine = make(BATTERY_POWER)

    def change(share):
        machine.set("sys/class/power_supply/BAT0/status", "Charging" if share == 0.5 else "Discharging")

    result = machine.run(machine.meter(), 60.0, 60, change)
    assert result.joules is None
    assert "BAT0/status says Charging" in result.why_none


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (SensorError("failed: Can't open device file: /dev/vcio"), r"sudo usermod -aG video \$USER"),
        (SensorError('failed: error=1 error_msg="Command not registered"'), "cannot measure its power, as a Raspberry"),
        (None, "there is no vcgencmd"),
        ("nonsense\n", "names no rail with current and voltage, but says 'nonsense'"),
    ],
    ids=["permission", "old board", "no command", "nonsense"],
)
def test_a_raspberry_pi_that_does_not_tell(make, said, message):
    import re

    assert re.search(message, make(PI5, machine="aarch64", pmic=said).meter().why_none)


def test_a_pmic_that_stops_answering_is_named(make):
    machine = make(PI5, machine="aarch64", pmic=PMIC)

    def change(share):
        machine.pmic = PMIC if share < 0.5 else SensorError("`vcgencmd pmic_read_adc` did not answer within 5 s")

    result = machine.run(machine.meter(), 4.0, 8, change)
    assert result.joules is None
    assert "did not answer within 5 s; it was read for 1.5 of 4.0 s" in result.why_none


def test_rails_are_pairs():
    watts = pmic.rails(PMIC)
    assert len(watts) == 12
    assert not {"EXT5V", "BATT"} & watts.keys()
    assert watts["VDD_CORE"] == pytest.approx(1.54489 * 0.8872518)


def test_a_file_that_holds_no_number_is_named(make):
    machine = make({**INA226, "sys/class/hwmon/hwmon2/power1_input": "nonsense\n"}, machine="aarch64")
    assert "power1_input holds 'nonsense" in machine.meter().why_none


def test_a_short_span_is_not_measured(make):
    machine = make(rapl())
    result = machine.run(machine.meter(), 0.01, 1, lambda share: machine.set(zone("0"), 1_500_000))
    assert result.joules is None
    assert "0.01 s is too short for rapl, which needs 0.1 s" in result.why_none


def test_slow_sensors_can_be_left_out(make):
    machine = make(BATTERY_POWER)
    meter = machine.meter(within=2.0)
    assert meter.source is None
    assert "battery changes too seldom: it needs 30 s" in meter.why_none
    assert machine.meter().least_seconds == 30


def test_a_long_silence_is_mentioned(make):
    machine = make(INA226, machine="aarch64")
    result = machine.run(machine.meter(), 30.0, 1)
    assert result.joules == pytest.approx(30 * 4.15)
    assert "there was no reading for 30 s" in result.problems


def test_a_sensor_by_a_name_that_is_not_there(make):
    machine = make(INA226, machine="aarch64")
    assert "there is none named 'rapl', but hwmon:ina226:power1" in machine.meter(sensor="rapl").why_none
    assert "there is none of scope 'battery'" in machine.meter(scope="battery").why_none


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sensor": 3}, TypeError, "sensor: expected a string or None, got int"),
        ({"scope": "house"}, ValueError, "scope: expected one of package, board, rail, .*; got 'house'"),
        ({"sensor": "rapl", "scope": "package"}, ValueError, "expected sensor or scope; got both"),
        ({"interval": 0.0}, ValueError, "interval: expected seconds from 0.01, or None; got 0.0"),
        ({"interval": float("nan")}, ValueError, "interval: expected"),
        ({"idle_seconds": -1}, ValueError, "idle_seconds: expected a finite number of seconds from 0; got -1"),
        ({"within": 0}, ValueError, "within: expected a number of seconds above 0; got 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        EnergyMeter(**options)


def test_use_out_of_order_is_explained(make):
    meter = make(rapl()).meter()
    with pytest.raises(RuntimeError, match="no result"):
        meter.joules  # noqa: B018
    with pytest.raises(RuntimeError, match=r"not running; start\(\) it first"):
        meter.stop()
    meter.start()
    with pytest.raises(RuntimeError, match="is running already"):
        meter.start()


# ----------------------------------------------------------------------------------------------- with a real clock


def test_the_thread_takes_readings_and_ends(tmp_path):
    write(tmp_path, INA226)
    with EnergyMeter(interval=0.02, host=Host(tmp_path, "aarch64")) as meter:
        assert "edgekern-energy" in [thread.name for thread in threading.enumerate()]
        time.sleep(0.8)
    assert "edgekern-energy" not in [thread.name for thread in threading.enumerate()]
    reading = meter.result.reading
    assert reading.samples >= 5
    assert meter.joules == pytest.approx(meter.seconds * 4.15)
    assert meter.watts == pytest.approx(4.15)


def test_the_meter_stops_when_the_block_fails(tmp_path):
    write(tmp_path, INA226)
    meter = EnergyMeter(host=Host(tmp_path, "aarch64"))
    with pytest.raises(KeyboardInterrupt), meter:
        raise KeyboardInterrupt
    assert "edgekern-energy" not in [thread.name for thread in threading.enumerate()]
    assert meter.seconds < 5


def test_idling_is_measured_once_and_subtracted(tmp_path):
    write(tmp_path, INA226)
    power = tmp_path / "sys/class/hwmon/hwmon2/power1_input"
    meter = EnergyMeter(interval=0.05, idle_seconds=0.75, host=Host(tmp_path, "aarch64"))
    power.write_text("1500000\n")
    meter.start()
    power.write_text("4000000\n")
    meter.sample()
    time.sleep(0.75)
    result = meter.stop()
    assert result.idle_watts == pytest.approx(1.5)
    assert result.net_joules == pytest.approx(result.joules - 1.5 * result.seconds)
    assert result.net_joules == pytest.approx(2.5 * result.seconds, rel=0.2)
    before = time.perf_counter()
    meter.start()
    assert time.perf_counter() - before < 0.5, "and not again"
    power.write_text("1000000\n")
    meter.sample()
    time.sleep(0.75)
    busy = meter.stop()
    assert busy.net_joules < 0
    assert any("the machine was busy when that was measured" in problem for problem in busy.problems)


@pytest.mark.parametrize("tree", [rapl(packages=2), INA3221], ids=["rapl", "ina3221"])
def test_sampling_takes_less_than_one_percent_of_a_core(tmp_path, tree):
    write(tmp_path, tree)
    meter = EnergyMeter(sensor="all", host=Host(tmp_path, "x86_64")).start()
    before = time.process_time()
    time.sleep(2)
    spent = time.process_time() - before
    result = meter.stop()
    assert min(reading.samples for reading in result.readings) > 5
    assert spent < 0.01 * 2


def test_a_costly_sensor_is_read_less_often(tmp_path):
    def slow(command):
        begin = time.thread_time()
        while time.thread_time() - begin < 0.01:
            pass
        return PMIC

    write(tmp_path, PI5)
    with EnergyMeter(interval=0.01, host=Host(tmp_path, "aarch64", slow)) as meter:
        time.sleep(2.2)
    assert meter.result.reading.samples <= 4, "both ends, the first, and at most one within 2 s of it"
    assert meter.joules == pytest.approx(meter.seconds * PMIC_WATTS, rel=0.001)

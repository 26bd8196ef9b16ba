"""``EnergyMeter``: reads sensors beside a program, and adds up."""

from __future__ import annotations

import math
import resource
import threading
import time
from collections.abc import Callable
from types import TracebackType

from edgekern.energy.choose import check_wanted, choose, find_sensors
from edgekern.energy.host import Host
from edgekern.energy.result import EnergyReading, EnergyResult
from edgekern.energy.sensor import Sensor, Track

_SHARE = 0.005  # of one core that sampling may take, its child processes counted in


class EnergyMeter:
    """Measures what a machine takes from ``start`` to ``stop``, or inside a ``with`` block.

    ::

        with EnergyMeter() as meter:
            model(x)
        print(meter.result)
        meter.joules  # None without a sensor; meter.result.why_none is the sentence that says why

    Sensors are the machine's own: RAPL counters, power monitors of hwmon, the Raspberry Pi 5's power chip, a battery.
    Nothing is ever estimated. What is measured is the machine, with all that runs on it. A thread takes readings
    meanwhile; it slows down by itself where they are costly. A meter can be started again after it was stopped.

    Args:
        sensor: the name of one, as ``edgekern energy --list`` shows it; "all" for all; None for the one that is
            likeliest to hold what a program on the CPU takes.
        scope: instead of a name: "package", "board", "rail", "battery", "memory" or "device".
        interval: seconds between readings, from 0.01; None takes none but at both ends, and in ``sample``.
        idle_seconds: how long to look at the idle machine first, once, at the first ``start``; then results have
            ``net_joules``. 0 leaves it out.
        within: seconds; sensors that need longer spans to be right are left out.
        host: where sensors are looked for.
        clock: the time in seconds.

    Raises:
        TypeError: an argument of another type.
        ValueError: an unknown scope, or a number out of range.
    """

    def __init__(
        self,
        sensor: str | None = None,
        scope: str | None = None,
        *,
        interval: float | None = 0.1,
        idle_seconds: float = 0.0,
        within: float = math.inf,
        host: Host | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_wanted(sensor, scope)
        if interval is not None and not 0.01 <= interval < math.inf:
            raise ValueError(f"interval: expected seconds from 0.01, or None; got {interval}")
        if not 0 <= idle_seconds < math.inf:
            raise ValueError(f"idle_seconds: expected a finite number of seconds from 0; got {idle_seconds}")
        if not within > 0:
            raise ValueError(f"within: expected a number of seconds above 0; got {within}")
        self._choice = choose(find_sensors(host), sensor, scope, within)
        self._interval, self._idle_seconds, self._clock = interval, idle_seconds, clock
        self._idle: dict[str, float | None] | None = None
        self._tracks: list[tuple[Sensor, Track]] = []
        self._begin: float | None = None
        self._result: EnergyResult | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def source(self) -> str | None:
        """Name of the sensor whose figures ``joules`` and its like will be; None where there is none."""
        return self._choice.main.name if self._choice.main else None

    @property
    def scope(self) -> str | None:
        """What these are of."""
        return self._choice.main.scope if self._choice.main else None

    @property
    def why_none(self) -> str:
        """A sentence that says why there is no sensor; empty where there is one."""
        return self._choice.why_none

    @property
    def least_seconds(self) -> float:
        """A shorter span is not measured; 0 without a sensor."""
        return self._choice.main.least_seconds if self._choice.main else 0.0

    def start(self) -> EnergyMeter:
        """Begins; with ``idle_seconds``, the first time, after having looked at the idle machine.

        Raises:
            RuntimeError: it is running.
        """
        if self._begin is not None:
            raise RuntimeError("this EnergyMeter is running already; stop() it, or make another one")
        if self._idle is None and self._idle_seconds:
            self.measure_idle(self._idle_seconds)
        self._tracks = [(sensor, sensor.track()) for sensor in self._choice.sensors]
        self._begin = self._clock()
        self._sample_at(self._begin)
        if self._tracks and self._interval is not None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="edgekern-energy", daemon=True)
            self._thread.start()
        return self

    def sample(self) -> None:
        """Takes readings now, besides those that are taken anyway."""
        self._sample_at(self._clock())

    def stop(self) -> EnergyResult:
        """Ends, and adds up.

        Raises:
            RuntimeError: it is not running.
        """
        if self._begin is None:
            raise RuntimeError("this EnergyMeter is not running; start() it first")
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
        end = self._clock()
        self._sample_at(end)
        seconds, self._begin = end - self._begin, None
        readings = tuple(self._reading(sensor, track, seconds) for sensor, track in self._tracks)
        main = self.source
        why = self.why_none
        for reading in readings:
            if reading.source == main and reading.joules is None:
                why = f"no energy was measured by {main}: {'; '.join(reading.problems)}"
        self._result = EnergyResult(seconds, readings, main, why, self._choice.problems)
        return self._result

    def measure_idle(self, seconds: float) -> dict[str, float | None]:
        """Watts by source, on average over so many seconds in which this waits; later results subtract them."""
        self._idle = {}
        self.start()
        try:
            time.sleep(seconds)
        finally:
            idle, self._result = self.stop(), None
        self._idle = {reading.source: reading.watts for reading in idle.readings}
        return self._idle

    def __enter__(self) -> EnergyMeter:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def result(self) -> EnergyResult:
        """Of the last measurement.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._result is None:
            raise RuntimeError("this EnergyMeter has not been stopped yet: there is no result")
        return self._result

    @property
    def seconds(self) -> float:
        """Of the last measurement, as all below."""
        return self.result.seconds

    @property
    def joules(self) -> float | None:
        """None where they were not measured; ``result.why_none`` says why."""
        return self.result.joules

    @property
    def watts(self) -> float | None:
        """On average."""
        return self.result.watts

    @property
    def net_joules(self) -> float | None:
        """Above what idling would have taken."""
        return self.result.net_joules

    @property
    def problems(self) -> tuple[str, ...]:
        """Whatever went wrong."""
        return self.result.problems

    def _sample_at(self, now: float) -> None:
        with self._lock:
            for _, track in self._tracks:
                track.sample(now)

    def _watch(self) -> None:
        assert self._interval is not None
        pause = self._interval
        while not self._ended.wait(pause):
            before = _cpu_seconds()
            self.sample()
            pause = max(self._interval, (_cpu_seconds() - before) / _SHARE)

    def _reading(self, sensor: Sensor, track: Track, seconds: float) -> EnergyReading:
        whole, problems = track.problems(seconds)
        idle = (self._idle or {}).get(sensor.name)
        joules = track.joules if whole else None
        if track.samples and seconds < sensor.least_seconds:
            short = f"{seconds:.3g} s is too short for {sensor.name}, which needs {sensor.least_seconds:.3g} s"
            joules, problems = None, (short,)
        net = None if joules is None or idle is None else joules - idle * seconds
        if net is not None and net < 0:
            problems = (*problems, f"less than idling at {idle:.3g} W: the machine was busy when that was measured")
        if joules is not None and idle is None and self._idle is not None and self._idle_seconds:
            problems = (*problems, f"its idle power was not measured in {self._idle_seconds:.3g} s")
        return EnergyReading(
            source=sensor.name,
            scope=sensor.scope,
            covers=sensor.covers,
            joules=joules,
            watts=None if joules is None else joules / seconds,
            idle_watts=idle,
            net_joules=net,
            samples=track.samples,
            problems=problems,
        )


def _cpu_seconds() -> float:
    """Of this thread, and of child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime

import json
import time
from collections import UserDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekern import BenchResult, bench
from edgekern.bench import latency

QUICK = {"warmup_seconds": 0, "max_seconds": 0.05, "max_repeats": 20}


class Spy(nn.Module):
    """Notes how it is called."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.seconds, self.calls = seconds, []

    def forward(self, *args, **kwargs):
        self.calls.append((args, kwargs, self.training, self.dropout.training, torch.is_inference_mode_enabled()))
        self.threads = torch.get_num_threads()
        time.sleep(self.seconds)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (torch.ones(2), 1, {}),
        ((torch.ones(2), 3), 2, {}),
        ([torch.ones(2)], 1, {}),
        ((), 0, {}),
        ({"ids": 1, "mask": 2}, 0, {"ids": 1, "mask": 2}),
        (UserDict(ids=1), 0, {"ids": 1}),
    ],
)
def test_inputs_become_arguments(inputs, args, kwargs):
    model = Spy()
    bench(model, inputs, **QUICK)
    seen_args, seen_kwargs, *_ = model.calls[0]
    assert len(seen_args) == args
    assert seen_kwargs == kwargs


def test_eval_and_inference_mode_while_it_runs_and_everything_back_after():
    model, threads = Spy().train(), torch.get_num_threads()
    model.dropout.eval()
    result = bench(model, (), threads=threads + 1, **QUICK)
    assert {call[2:] for call in model.calls} == {(False, False, True)}
    assert model.threads == result.threads == threads + 1
    assert model.training
    assert not model.dropout.training
    assert torch.get_num_threads() == threads


def test_everything_back_after_a_failure():
    class Broken(nn.Module):
        def forward(self):
            raise RuntimeError("on purpose")

    model, threads = Broken().train(), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="on purpose"):
        bench(model, (), threads=threads + 1)
    assert model.training
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_times_are_in_milliseconds_and_in_order():
    result = bench(Spy(seconds=0.005), (), warmup_seconds=0, max_seconds=0.2)
    assert 5 <= result.min <= result.p50 <= result.p95
    assert result.min <= result.mean
    assert result.p50 < 1000
    assert 1 <= result.repeats <= 40
    assert BenchResult(**json.loads(json.dumps(result.to_dict()))) == result
    assert str(result).startswith(f"p50 {result.p50:.3f} ms")


@pytest.mark.parametrize(
    ("limits", "repeats"),
    [({"max_seconds": 60, "max_repeats": 3}, 3), ({"max_seconds": 0}, 1), ({"max_seconds": 60, "max_repeats": 1}, 1)],
)
def test_limits(limits, repeats):
    model = Spy()
    assert bench(model, (), warmup_seconds=0, **limits).repeats == repeats
    assert len(model.calls) == repeats + 2, "two calls warm up"


def test_a_steady_model_ends_early():
    start = time.perf_counter()
    result = bench(Spy(seconds=0.01), (), warmup_seconds=0, max_seconds=60)
    assert 10 <= result.repeats < 1000
    assert time.perf_counter() - start < 30


def test_warmup_runs_for_its_time():
    model = Spy(seconds=0.01)
    bench(model, (), warmup_seconds=0.1, max_seconds=0)
    assert 3 <= len(model.calls) <= 12


def test_progress_ends_at_one():
    seen = []
    bench(Spy(seconds=0.01), (), warmup_seconds=0, max_seconds=0.3, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert all(0 <= share <= 1 for share in seen)
    assert len(seen) <= 6


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=200))
def test_quantiles_are_measured_times(times):
    result = latency.summarise(times, 1)
    ordered = sorted(1000 * seconds for seconds in times)
    assert result.min == ordered[0]
    assert result.p50 in ordered
    assert result.p95 in ordered
    assert sum(value <= result.p50 for value in ordered) >= len(ordered) / 2
    assert sum(value <= result.p95 for value in ordered) >= 0.95 * len(ordered)


def test_the_median_is_stable_when_times_agree():
    assert latency._median_is_stable([1.0] * 10)
    assert latency._median_is_stable([1.0, 1.001] * 50)
    assert not latency._median_is_stable([1.0, 2.0] * 5)
    assert not latency._median_is_stable([1.0 + i / 10 for i in range(10)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": len}, TypeError, "model: expected a torch.nn.Module, got builtin_function"),
        ({"inputs": 3}, TypeError, "inputs: expected a tensor, a tuple.*got int"),
        ({"inputs": "text"}, TypeError, "got str"),
        ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
        ({"max_repeats": 0}, ValueError, "max_repeats: expected at least 1"),
        ({"max_seconds": -1}, ValueError, "max_seconds: expected a finite number of seconds from 0, got -1"),
        ({"warmup_seconds": float("inf")}, ValueError, "warmup_seconds: expected a finite"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        bench(**{"model": Spy(), "inputs": (), **arguments})

"""Models on ranks with little memory, and over networks that are slow or break; Linux only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from harness.network import Network, obstacle  # noqa: E402
from parallel_outcome import NEEDS, failed, succeeded  # noqa: E402
from parallel_scenarios import PROMPT, model_of  # noqa: E402
from tiny_llama import folder_of  # noqa: E402

import edgekern as ek  # noqa: E402

pytestmark = [*NEEDS, pytest.mark.skipif(sys.platform != "linux", reason="limits and namespaces are Linux's")]

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10}
LAYER = 4 * 512 * 512 * 3 // 4 + 3 * 512 * 1536  # int8; two of the four attention layers have half as many heads


@pytest.mark.parametrize("stored", ["converted", "floats"])
def test_a_model_larger_than_a_ranks_memory_runs(ranks, tmp_path, stored):
    """Floats take four times the room, and are converted when they are read."""
    model = model_of("int8", **SIZES)
    if stored == "floats":
        folder_of(model_of(**SIZES), tmp_path / "saved", max_shard_size="20MB")
    else:
        ek.save(model, tmp_path / "saved")
    whole = sum(each.packed_bytes for each in model.modules() if hasattr(each, "packed_bytes"))
    assert whole > 0.95 * 10 * LAYER
    room = int(0.75 * whole)
    args = {"checkpoint": str(tmp_path / "saved"), "sizes": SIZES, "room": room}
    args["scheme"] = "int8" if stored == "floats" else None
    alone = ranks("limited", 1, {**args, "ranks": 1})
    failed(alone, "can't allocate memory", "MemoryError", "not enough memory")
    found = succeeded(ranks("limited", 2, {**args, "ranks": 2}))
    with torch.inference_mode():
        given = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = model.generate(PROMPT, **given).tolist()
    assert [each["tokens"] for each in found] == [expected] * 2
    assert max(each["rose"] for each in found) <= room < whole


@pytest.fixture(scope="module")
def namespaces():
    if reason := obstacle():
        pytest.skip(reason)


def over(network):
    """What the ``ranks`` fixture is to be given, so that each rank runs in a namespace of its own."""
    return {"netns": network.namespaces, "env": {str(rank): network.environment for rank in range(2)}}


@pytest.mark.usefixtures("namespaces")
def test_tokens_are_the_same_over_a_slow_network(ranks):
    delay, rate = 3e-3, 40e6
    near = succeeded(ranks("pipeline", 2, {"scheme": "int8"}))
    with Network(delay, rate) as network:
        trip, measured = network.measure()
        far = succeeded(ranks("pipeline", 2, {"scheme": "int8"}, **over(network)))
    assert 2 * delay < trip < 4 * delay
    assert 0.8 * rate < measured < rate  # frames and packets have headers
    for name in ("one", "batch", "padded", "ended"):
        assert [each[name] for each in far] == [each[name] for each in near]


@pytest.mark.usefixtures("namespaces")
def test_a_network_that_breaks_ends_all(ranks):
    with Network(1e-3, 100e6) as network:
        found = ranks("write_for_long", 2, {"silence": 2}, cut=network.cut_command(), **over(network))
    failed(found, "RankLostError", "RankFailedError")

"""Models on ranks with little memory, and over networks that are slow or break; Linux only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

from parallel_outcome import NEEDS, failed, succeeded  # noqa: E402
from parallel_scenarios import PROMPT, model_of  # noqa: E402

import edgekern as ek  # noqa: E402

pytestmark = [*NEEDS, pytest.mark.skipif(sys.platform != "linux", reason="limits and namespaces are Linux's")]

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10}
LAYER = 4 * 512 * 512 * 3 // 4 + 3 * 512 * 1536  # int8; two of the four attention layers have half as many heads


def test_a_model_larger_than_a_ranks_memory_runs(ranks, tmp_path):
    model = model_of("int8", **SIZES)
    ek.save(model, tmp_path / "saved")
    whole = sum(each.packed_bytes for each in model.modules() if hasattr(each, "packed_bytes"))
    assert whole > 0.95 * 10 * LAYER
    room = int(0.75 * whole)
    args = {"checkpoint": str(tmp_path / "saved"), "sizes": SIZES, "room": room}
    alone = ranks("limited", 1, {**args, "ranks": 1})
    failed(alone, "can't allocate memory", "MemoryError", "not enough memory")
    found = succeeded(ranks("limited", 2, {**args, "ranks": 2}))
    with torch.inference_mode():
        given = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = model.generate(PROMPT, **given).tolist()
    assert [each["tokens"] for each in found] == [expected] * 2
    assert max(each["rose"] for each in found) <= room < whole


@pytest.fixture
def network():
    """Two namespaces with a link between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip (Debian: iproute2)")
    number = os.getpid()
    names = [f"ek{number}a", f"ek{number}b"]

    def command(*words, check=True):
        done = subprocess.run(words, capture_output=True, text=True)
        if check and done.returncode:
            pytest.skip(f"`{' '.join(words)}` is not possible here: {done.stderr.strip()}")

    try:
        for name in names:
            command("ip", "netns", "add", name)
        command("ip", "link", "add", "ek0", "netns", names[0], "type", "veth", "peer", "name", "ek0", "netns", names[1])
        for i, name in enumerate(names):
            inside = ("ip", "netns", "exec", name)
            command(*inside, "ip", "addr", "add", f"10.77.0.{i + 1}/24", "dev", "ek0")
            command(*inside, "ip", "link", "set", "ek0", "up")
            command(*inside, "ip", "link", "set", "lo", "up")
        yield {"netns": names, "address": "10.77.0.1", "env": {str(i): {"GLOO_SOCKET_IFNAME": "ek0"} for i in range(2)}}
    finally:
        for name in names:
            command("ip", "netns", "del", name, check=False)


def test_tokens_are_the_same_over_a_slow_network(ranks, network):
    """3 ms each way, 40 Mbit/s."""
    if shutil.which("tc") is None:
        pytest.skip("needs tc (Debian: iproute2)")
    for name in network["netns"]:
        slow = ["tc", "qdisc", "add", "dev", "ek0", "root", "netem", "delay", "3ms", "rate", "40mbit"]
        done = subprocess.run(["ip", "netns", "exec", name, *slow], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this kernel has no netem: {done.stderr.strip()}")
    near = succeeded(ranks("pipeline", 2, {"scheme": "int8"}))
    far = succeeded(ranks("pipeline", 2, {"scheme": "int8"}, **network))
    for name in ("one", "batch", "padded", "ended"):
        assert [each[name] for each in far] == [each[name] for each in near]


def test_a_network_that_breaks_ends_all(ranks, network):
    cut = ["ip", "netns", "exec", network["netns"][1], "ip", "link", "set", "ek0", "down"]
    found = ranks("write_for_long", 2, {"silence": 2}, cut=cut, **network)
    failed(found, "RankLostError", "RankFailedError")

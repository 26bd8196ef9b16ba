"""The torch op on many threads: torch's own, the program's, and none after fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

torch = pytest.importorskip("torch")

from edgekern import kernels, ops  # noqa: E402

int8_linear = torch.ops.edgekern.int8_linear.default


def test_every_thread_count_gives_the_same_bits():
    q, scale = ops.int8_quantize(torch.randn(1024, 512))
    packed, x, results = ops.int8_pack(q, scale), torch.randn(64, 512), []
    for threads in (1, 2, 3, 4):
        kernels.set_num_threads(threads)
        results.append(int8_linear(x, packed, 1024, 0))
    for other in results[1:]:
        assert torch.equal(other, results[0])


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="torch lends its threads since 2.10")
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_the_work_runs_on_as_many_threads_as_torch_says():
    code = """
import os, torch
from edgekern import kernels, ops
torch.set_num_threads(1)
packed = ops.int8_pack(*ops.int8_quantize(torch.randn(1024, 512)))
x = torch.randn(64, 512)
def threads_after_a_call():
    torch.ops.edgekern.int8_linear(x, packed, 1024, 0)
    return len(os.listdir("/proc/self/task"))
alone = len(os.listdir("/proc/self/task"))
assert threads_after_a_call() == alone
torch.set_num_threads(3)
assert kernels.get_num_threads() == 3
assert threads_after_a_call() == alone + 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_one_thread_setting_for_torch_and_edgekern():
    kernels.set_num_threads(3)
    assert torch.get_num_threads() == 3


def test_several_python_threads_at_once():
    torch.manual_seed(1)
    packed = ops.int8_pack(*ops.int8_quantize(torch.randn(256, 128)))
    inputs = [torch.randn(rows, 128) for rows in (1, 3, 40, 200)]
    expected = [int8_linear(x, packed, 256, 0) for x in inputs]
    wrong, start = [], threading.Barrier(len(inputs))

    def work(index):
        start.wait()
        for _ in range(100):
            if not torch.equal(int8_linear(inputs[index], packed, 256, 0), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns; surviving it is the point
def test_after_fork():
    packed = ops.int8_pack(*ops.int8_quantize(torch.randn(1024, 512)))
    x = torch.randn(64, 512)
    kernels.set_num_threads(2)
    expected = int8_linear(x, packed, 1024, 0)  # torch's threads run from here on, and the child has none of them
    child = os.fork()
    if child == 0:
        same = (int8_linear(x, packed, 1024, 0).numpy() == expected.numpy()).all()
        kernels.set_num_threads(1)
        same = same and (int8_linear(x, packed, 1024, 0).numpy() == expected.numpy()).all()
        os._exit(0 if same and kernels.get_num_threads() == 1 else 1)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0
    assert torch.equal(int8_linear(x, packed, 1024, 0), expected)


def test_the_gil_is_released():
    packed = ops.int8_pack(torch.ones(2048, 2048, dtype=torch.int8), torch.ones(2048))
    x, ticks, done = torch.randn(2048, 2048), [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(None)
            done.wait(1e-4)

    kernels.set_num_threads(1)
    ticker = threading.Thread(target=tick)
    ticker.start()
    while not ticks:
        pass
    before = len(ticks)
    int8_linear(x, packed, 2048, 0)  # tens of milliseconds in one native call
    during = len(ticks) - before
    done.set()
    ticker.join()
    assert during > 2

"""Which cores processes run on, seen from recorded trees of sysfs; and how much memory there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", minversion="2.9")

from edgekern.energy.host import Host  # noqa: E402
from edgekern.parallel import choose_cores, cores  # noqa: E402
from edgekern.parallel.memory import free_memory  # noqa: E402

CPU = "sys/devices/system/cpu/cpu"
PI5 = {f"{CPU}{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4)} | {
    f"{CPU}{i}/topology/thread_siblings_list": f"{i}\n" for i in range(4)
}
# Four Cortex-A55, and two clusters of Cortex-A76 which differ by a few MHz.
RK3588 = {f"{CPU}{i}/cpu_capacity": "530\n" for i in range(4)} | {
    f"{CPU}{i}/cpu_capacity": f"{1024 if i < 6 else 1011}\n" for i in range(4, 8)
}
# Eight P-cores of two threads each, then eight E-cores whose turbo would not tell them apart.
ALDER_LAKE = (
    {"sys/devices/cpu_core/cpus": "0-15\n", "sys/devices/cpu_atom/cpus": "16-23\n"}
    | {f"{CPU}{i}/cpufreq/cpuinfo_max_freq": "5000000\n" for i in range(24)}
    | {f"{CPU}{i}/topology/thread_siblings_list": f"{i & ~1}-{i | 1}\n" for i in range(16)}
    | {f"{CPU}{i}/topology/thread_siblings_list": f"{i}\n" for i in range(16, 24)}
)
# A server whose threads are numbered core by core, then again.
SERVER = {f"{CPU}{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}\n" for i in range(8)}


def host(tree, root):
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(root, "aarch64")


@pytest.mark.parametrize(
    ("tree", "count", "big", "siblings"),
    [
        (PI5, 4, [0, 1, 2, 3], []),
        (RK3588, 8, [4, 5, 6, 7], []),
        (ALDER_LAKE, 24, list(range(16)), [1, 3, 5, 7, 9, 11, 13, 15]),
        (SERVER, 8, list(range(8)), [4, 5, 6, 7]),
        ({}, 2, [0, 1], []),
    ],
    ids=["pi5", "rk3588", "alder-lake", "server", "nothing"],
)
def test_big_cores_are_known(tmp_path, tree, count, big, siblings):
    found = cores(host(tree, tmp_path), range(count))
    assert [core.cpu for core in found if core.big] == big
    assert [core.cpu for core in found if core.sibling] == siblings


def test_processes_share_no_core(tmp_path):
    found = cores(host(ALDER_LAKE, tmp_path), range(24))
    assert choose_cores(found) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert choose_cores(found, siblings=True) == list(range(16))
    assert [choose_cores(found, rank=rank, ranks=3) for rank in range(3)] == [[0, 2], [4, 6, 8], [10, 12, 14]]
    assert choose_cores(found, "little") == list(range(16, 24))
    assert len(choose_cores(found, "all")) == 16
    few = found[:2]  # a container that may use one core
    assert [choose_cores(few, rank=rank, ranks=2) for rank in range(2)] == [[0], [0]]
    # The other thread alone is as good as the first.
    assert choose_cores(cores(host(ALDER_LAKE, tmp_path), [3, 5])) == [3, 5]


def test_what_cannot_be_chosen_is_told(tmp_path):
    found = cores(host(PI5, tmp_path), range(4))
    with pytest.raises(ValueError, match=r"no little cores; it has 4 of one kind: 'big' or 'all'"):
        choose_cores(found, "little")
    with pytest.raises(ValueError, match=r"kind: expected one of big, little, all; got 'huge'"):
        choose_cores(found, "huge")
    with pytest.raises(ValueError, match=r"rank: expected from 0 to 1, got 2"):
        choose_cores(found, rank=2, ranks=2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux keeps processes on cores")
def test_a_process_is_kept_on_its_cores():
    program = """
import os, torch
from edgekern import parallel
torch.randn(300, 300) @ torch.randn(300, 300)  # its threads are there already
chosen = parallel.pin(rank=1, ranks=2)
tasks = [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]
print(chosen, all(task == chosen for task in tasks), torch.get_num_threads() == len(chosen))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = choose_cores(cores(), rank=1, ranks=2)
    assert done.stdout.split("]")[0] + "]" == str(expected)
    assert done.stdout.split("]")[1].split() == ["True", "True"]


MEMORY = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable:    4000 kB\n", "proc/self/status": "VmRSS: 1000 kB\n"}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, 4000),
        (
            {
                "proc/self/cgroup": "0::/user/app\n",
                "sys/fs/cgroup/user/app/memory.max": "max\n",
                "sys/fs/cgroup/user/app/memory.current": "1000\n",
                "sys/fs/cgroup/user/memory.max": f"{3000 * 1024}\n",
                "sys/fs/cgroup/user/memory.current": f"{1000 * 1024}\n",
            },
            2000,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/x\n2:cpu:/\n",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{1500 * 1024}\n",
                "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": f"{500 * 1024}\n",
            },
            1000,
        ),
    ],
    ids=["none", "v2", "v1"],
)
def test_the_tightest_limit_counts(tmp_path, tree, expected):
    assert free_memory(host(MEMORY | tree, tmp_path)) == expected * 1024

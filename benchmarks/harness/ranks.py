"""Environments of the processes that are ranks of one group, of a thread each."""

from __future__ import annotations

import os
import socket


def environments(count: int) -> list[dict[str, str]]:
    """What ``edgekern.parallel.join`` reads, for each rank; they meet at a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return [{**os.environ, **shared, "RANK": str(rank)} for rank in range(count)]

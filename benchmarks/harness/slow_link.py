"""A wire of a given length and bandwidth between two network namespaces: harness/network.py runs it as a process.

It opens a TUN device in each, and hands the packets of one to the other when a wire would have. Every kernel has TUN
devices; that of netem, which delays packets in the kernel, is left out of many.

    python -m harness.slow_link <namespace> <namespace> <seconds each way> <bits a second>

Says "ready" when both devices are there, and ends when its input does.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

DEVICE = "ek0"
"""What the device is called in both namespaces."""
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_HEADER = struct.Struct("=BBHHHH")
"""Of each packet, in front: flags, kind, bytes of its own headers, most payload of a frame, where its checksum is."""
_LARGEST = _HEADER.size + (1 << 16)
_FRAMING = 38
"""Bytes that Ethernet adds to each frame: addresses and type, checksum, preamble, and the gap behind it."""


def enter(namespace: str) -> None:
    """Takes this thread, and what it opens from now on, into a network namespace that ``ip netns add`` has made."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(file, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no way into {namespace}")
    finally:
        os.close(file)


def bytes_on_wire(packet: bytes) -> int:
    """What a packet takes in frames. TCP hands out up to 64 KB as one packet, which a network card would cut up."""
    _, kind, headers, payload, _, _ = _HEADER.unpack_from(packet)
    size = len(packet) - _HEADER.size
    frames = math.ceil((size - headers) / payload) if kind else 1
    return size + (frames - 1) * headers + frames * _FRAMING


class Wire:
    """One direction: packets follow each other at its bandwidth, and arrive so many seconds after their last bit."""

    def __init__(self, source: int, target: int, delay: float, rate: float) -> None:
        self._source, self._target, self._delay, self._rate = source, target, delay, rate
        self._free = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float:
        """When the next packet arrives."""
        return self._under_way[0][0] if self._under_way else math.inf

    def take(self) -> None:
        """Sends off what there is."""
        with suppress(BlockingIOError):
            while True:
                packet = os.read(self._source, _LARGEST)
                self._free = max(self._free, time.monotonic()) + 8 * bytes_on_wire(packet) / self._rate
                self._under_way.append((self._free + self._delay, packet))

    def deliver(self) -> None:
        """Hands over what has arrived by now. Into a device that is down, packets are lost as in a cut wire."""
        while self.due <= time.monotonic():
            with suppress(OSError):
                os.write(self._target, self._under_way.popleft()[1])


def _open_device(namespace: str) -> int:
    """Of packets that the kernel has neither cut into frames nor given a checksum: both take time, and nobody looks."""
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return device


def main() -> None:
    namespaces, (delay, rate) = sys.argv[1:3], map(float, sys.argv[3:])
    one, other = map(_open_device, namespaces)
    wires = {one: Wire(one, other, delay, rate), other: Wire(other, one, delay, rate)}
    with suppress(PermissionError):  # without it, packets come late where all cores are busy
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("ready", flush=True)
    while True:
        due = min(wire.due for wire in wires.values())
        wait = None if math.isinf(due) else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([sys.stdin, *wires], [], [], wait)
        if sys.stdin in readable:
            return
        for device in readable:
            wires[device].take()
        for wire in wires.values():
            wire.deliver()


if __name__ == "__main__":
    main()

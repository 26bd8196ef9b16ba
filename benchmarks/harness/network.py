"""Two network namespaces with a slow link between them, as if each were a board of its own. Linux, as root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from harness.machine import ticks_of
from harness.process import BENCHMARKS
from harness.slow_link import DEVICE, enter

_ADDRESSES = ("10.77.0.1", "10.77.0.2")


def obstacle() -> str:
    """Why there can be no such network here; empty when there can."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs Linux, root and ip (Debian: iproute2)"
    name = f"ek{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network of its own can be made here: {getattr(error, 'stderr', None) or error}".strip()
    return ""


class Network:
    """Two namespaces and their link; made by ``with``, and gone after it.

    Args:
        delay: seconds from one to the other.
        rate: bits a second, each way.

    Attributes:
        namespaces: their names; a process goes into one by :func:`enter`.
        address: of the first, as both see it.
    """

    address = _ADDRESSES[0]

    def __init__(self, delay: float, rate: float) -> None:
        self._delay, self._rate = delay, rate
        self.namespaces = (f"ek{os.getpid()}a", f"ek{os.getpid()}b")
        self._link: subprocess.Popen[str] | None = None

    def __enter__(self) -> Network:
        try:
            for name in self.namespaces:
                _run("ip", "netns", "add", name)
            arguments = [*self.namespaces, str(self._delay), str(self._rate)]
            self._link = subprocess.Popen(
                [sys.executable, "-m", "harness.slow_link", *arguments],
                cwd=BENCHMARKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert self._link.stdout is not None
            if self._link.stdout.readline() != "ready\n":
                raise RuntimeError("the link has ended; its error stands above")
            for name, address in zip(self.namespaces, _ADDRESSES, strict=True):
                _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
                for device in ("lo", DEVICE):
                    _run("ip", "-n", name, "link", "set", device, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._link is not None:
            self._link.communicate()  # its input ends, so it does
        for name in self.namespaces:
            with suppress(subprocess.CalledProcessError):  # it may not have been made
                _run("ip", "netns", "del", name)

    @property
    def cpu_seconds(self) -> float:
        """What the link has taken of the processor so far."""
        assert self._link is not None
        return ticks_of(self._link.pid) / os.sysconf("SC_CLK_TCK")

    @property
    def environment(self) -> dict[str, str]:
        """What tells ranks in the namespaces where to meet, and by which device."""
        return {"MASTER_ADDR": self.address, "GLOO_SOCKET_IFNAME": DEVICE}

    def cut_command(self) -> list[str]:
        """What takes the second namespace off the network."""
        return ["ip", "-n", self.namespaces[1], "link", "set", DEVICE, "down"]

    def measure(self) -> tuple[float, float]:
        """What programs see of it: seconds that a byte takes there and back, at best, and bits a second."""
        server, client = map(_socket_in, self.namespaces)
        with server, client:
            server.bind((self.address, 0))
            server.listen()
            client.connect(server.getsockname())
            other, _ = server.accept()
            with other:
                for end in (client, other):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                trip = min(_round_trip(client, other) for _ in range(20))
                nbytes = int(self._rate / 8 / 10)
                return trip, max(_rate(client, other, nbytes, trip / 2) for _ in range(3))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _socket_in(namespace: str) -> socket.socket:
    """A socket stays where it was made, whoever uses it."""
    with ThreadPoolExecutor(1, initializer=enter, initargs=(namespace,)) as inside:
        return inside.submit(socket.socket).result()


def _round_trip(one: socket.socket, other: socket.socket) -> float:
    start = time.perf_counter()
    one.send(b"?")
    other.recv(1)
    other.send(b"!")
    one.recv(1)
    return time.perf_counter() - start


def _rate(one: socket.socket, other: socket.socket, nbytes: int, way: float) -> float:
    """Bits a second of a message, without the seconds of the way; less, never more, where this process is held up."""
    sending = threading.Thread(target=one.sendall, args=(bytes(nbytes),))
    start, left = time.perf_counter(), nbytes
    sending.start()
    while left:
        left -= len(other.recv(1 << 20))
    seconds = time.perf_counter() - start - way
    sending.join()
    return 8 * nbytes / seconds

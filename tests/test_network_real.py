"""The virtual clock against real TCP connections between two network namespaces of this machine.

`tc` shapes the rate at each end, a delay line between them adds the latency. Measured from the first
byte sent to the last byte received, one way: both ends read the same clock.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fedsim.config import Link
from fedsim.network import transfer_s
from fedsim.types import Parameters
from fedsim.wire import encode

TOOLS = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in ("ip", "tc")}
DELAY_LINE = Path(__file__).with_name("delay_line.py")
ADDRESSES = ("192.0.2.1", "192.0.2.2")
PORT = 4711
TUN = Path("/dev/net/tun")
CLONE_NEWNET, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 0x400454CA, 0x0001, 0x1000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(TOOLS.values()), reason="needs ip and tc (iproute2)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces"),
    pytest.mark.skipif(not TUN.exists(), reason=f"needs {TUN}"),
]


def command(tool: str, *arguments: object) -> None:
    done = subprocess.run([TOOLS[tool], *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"{tool} {' '.join(map(str, arguments))}: {done.stderr}"


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    """Skips where even root can make none, as in many containers."""
    name = f"fedsim-{os.getpid()}"
    done = subprocess.run([TOOLS["ip"], "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"network namespaces can't be made: {done.stderr.strip()}")
    command("ip", "netns", "del", name)


def within(namespace: str, make: Callable):
    """`make()` called in a network namespace; what it opens stays there."""

    def enter():
        with Path("/run/netns", namespace).open() as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return make()

    with ThreadPoolExecutor(1) as thread:  # a namespace is a thread's own
        return thread.submit(enter).result()


def tun() -> int:
    device = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"link", IFF_TUN | IFF_NO_PI))
    # Otherwise a connection would begin with what the last one learned about the path.
    Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")
    return device


@contextlib.contextmanager
def linked(mbps: float, latency_ms: float) -> Iterator[tuple[str, str]]:
    """Two namespaces at the ends of such a link."""
    names = (f"fedsim-{os.getpid()}-a", f"fedsim-{os.getpid()}-b")
    with contextlib.ExitStack() as undo:
        devices = []
        for name, address in zip(names, ADDRESSES, strict=True):
            command("ip", "netns", "add", name)
            undo.callback(command, "ip", "netns", "del", name)
            devices.append(within(name, tun))
            undo.callback(os.close, devices[-1])
            command("ip", "-n", name, "address", "add", f"{address}/30", "dev", "link")
            command("ip", "-n", name, "link", "set", "dev", "link", "mtu", 1500, "txqueuelen", 10000, "up")
            # Room for all that a sender may have under way: nothing is lost.
            shape = ("rate", f"{mbps}mbit", "burst", 3000, "limit", 32_000_000)
            command("tc", "-n", name, "qdisc", "add", "dev", "link", "root", "tbf", *shape)
        line = subprocess.Popen(
            [sys.executable, str(DELAY_LINE), *map(str, devices), str(latency_ms / 1e3)], pass_fds=devices
        )
        undo.callback(line.wait)
        undo.callback(line.kill)
        yield names


def connection(names: tuple[str, str]) -> tuple[socket.socket, socket.socket]:
    """An open connection from the first namespace to the second, as most machines have it (cubic)."""
    sender, listener = (within(name, socket.socket) for name in names)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESSES[1], PORT))
        listener.listen()
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        sender.settimeout(30)
        sender.connect((ADDRESSES[1], PORT))
        return sender, listener.accept()[0]


def measure(names: tuple[str, str], message: bytes) -> float:
    """Seconds for the message over a connection of its own."""
    sender, receiver = connection(names)
    with sender, receiver:
        arrived = bytearray()
        ended = []

        def receive() -> None:
            while len(arrived) < len(message):
                arrived.extend(receiver.recv(1 << 20))
            ended.append(time.monotonic())

        thread = threading.Thread(target=receive)
        thread.start()
        began = time.monotonic()
        sender.sendall(message)
        thread.join(30)
        assert arrived == message
        return ended[0] - began


@pytest.mark.parametrize(
    ("mbps", "latency_ms", "size"),
    [
        (1, 0, 200_000),
        (1, 50, 200_000),
        (10, 0, 2_000_000),
        (10, 50, 2_000_000),
        (100, 0, 20_000_000),
        (100, 50, 20_000_000),
        (100, 50, 1_000_000),  # as large as the quickstart's: most of the time goes into slow start
    ],
)
def test_a_message_takes_what_the_clock_says(mbps: float, latency_ms: float, size: int):
    vector = np.random.default_rng(0).standard_normal(size // 4, np.float32)
    message = encode(Parameters((vector,), examples=1), direction="up", round=1, sender=0).data
    assert size <= len(message) < 1.01 * size
    link = Link(up_mbps=mbps, latency_ms=latency_ms)
    said = transfer_s(link, len(message), "up")
    with linked(mbps, latency_ms) as names:
        took = min(measure(names, message) for _ in range(3))  # whatever else works here only delays it
    print(f"{mbps} Mbit/s, {latency_ms} ms, {len(message)} bytes: {took:.3f} s, the clock says {said:.3f} s")
    assert took == pytest.approx(said, rel=0.1)

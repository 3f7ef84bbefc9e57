"""A steady load: requests that leave by the clock over many open connections.

A closed loop waits for a slow answer before it asks again, and so hides it. Here each request has a
time to leave, and its latency counts from that time, whatever has held it up.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import load


@dataclass
class Connection:
    """One connection and when its requests were to leave, oldest first."""

    socket: socket.socket
    due_s: deque[float] = field(default_factory=deque)
    received: bytes = b""


@dataclass(frozen=True)
class Steady:
    """What a run saw. Times in milliseconds."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def run(url: str, connections: int, rate: int, seconds: float) -> Steady:
    """Send `rate` requests a second over the connections in turn.

    Raises:
        RuntimeError: an answer was not 200, or a connection broke.
    """
    fields = load.open_session(url)
    where = urlsplit(url)
    opened = [_open(where.hostname or "", where.port or 80) for _ in range(connections)]
    try:
        selector = selectors.EpollSelector()
        for each in opened:
            selector.register(each.socket, selectors.EVENT_READ, each)
        request = head(where.netloc, where.path, fields)
        return _load(opened, selector, request, rate, seconds)
    finally:
        for each in opened:
            each.socket.close()


def _load(
    opened: list[Connection], selector: selectors.EpollSelector, head: bytes, rate: int,
    seconds: float,
) -> Steady:
    latencies_s: list[float] = []
    began_s = time.monotonic()
    total, sent = int(rate * seconds), 0
    while len(latencies_s) < total:
        now_s = time.monotonic()
        while sent < total and (due_s := began_s + sent / rate) <= now_s:
            each = opened[sent % len(opened)]
            each.due_s.append(due_s)
            each.socket.sendall(head + body(sent))
            sent += 1
        wait_s = began_s + sent / rate - time.monotonic() if sent < total else 1.0
        for key, _ in selector.select(max(wait_s, 0)):
            _receive(key.data, latencies_s)
    took_s = time.monotonic() - began_s
    cuts = statistics.quantiles(latencies_s, n=100)
    return Steady(total / took_s, cuts[49] * 1e3, cuts[94] * 1e3, cuts[98] * 1e3)


def _receive(connection: Connection, latencies_s: list[float]) -> None:
    data = connection.socket.recv(65536)
    if not data:
        raise RuntimeError("a connection was closed under load")
    connection.received += data
    while (end := connection.received.find(b"\r\n\r\n")) >= 0:
        head = connection.received[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"an error under load: {connection.received[:200]!r}")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(connection.received) < end + 4 + length:
            return
        connection.received = connection.received[end + 4 + length:]
        latencies_s.append(time.monotonic() - connection.due_s.popleft())


def _open(host: str, port: int) -> Connection:
    opened = socket.create_connection((host, port), 10)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(opened)


def head(authority: str, path: str, fields: dict[str, str]) -> bytes:
    """Make the head of every request."""
    length = len(body(0))
    rows = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n{rows}Content-Length: {length}\r\n\r\n"
    ).encode()


def body(number: int) -> bytes:
    """Make the body of one; all have the same length."""
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call",'
        b'"params":{"name":"echo","arguments":{"message":"%b"}}}'
        % (1_000_000 + number, load.TEXT.encode())
    )

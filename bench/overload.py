"""make bench-overload: twice as much is offered as can be served. Writes OVERLOAD.md.

First the upstream is the limit: 32 slots of 50 ms, asked by the clock for twice what they can do.
What is served must stay near the peak, and a refusal must leave at once. Then the proxy itself is:
2,000 connections that together ask for twice the most that they can get.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import contenders
import load
import steady
from contenders import LOAD_CORE, PROXY_CORE, Running
from echo_http import SLOT_S, SLOTS
from processes import Pinned, free_port

RESULTS = Path(__file__).with_name("OVERLOAD.md")
CLIENTS = 2000
SLOTS_GOODPUT_MIN = 0.9
OWN_GOODPUT_MIN = 0.6
REFUSAL_P99_MS_MAX = 5.0
CPU_MAX = 0.7
TIMEOUT_S = 2
NEWLINE = "\n"
LAG_S = 0.05
# Where the limit is found out: from so few calls at once to so many times the slots.
ADAPTIVE_MIN, ADAPTIVE_MAX = 8, 8 * SLOTS
# What a crowd asks for, requests a second, to find out the most that it gets: half as much again,
# until it gets much less than it asks for.
OFFER_FIRST, OFFER_MORE, SHORT = 2000, 1.5, 0.9
_CONFIG = """
listen = "127.0.0.1:{port}"
[overload]
lag-s-max = {lag}
{metrics}
[upstreams.server]
url = "http://127.0.0.1:{behind}/mcp"
{upstream}
[upstreams.server.pool]
connections-max = {connections}
{pool}
"""
_METRICS = '[metrics]\nstatsd = "127.0.0.1:{}"\nflush-interval-s = 0.5'
_DELAY = """
local counter = {delay_ms}
delay = function() return math.random(0, 2 * counter) end
"""


@contextmanager
def proxy(
    kind: str, connections: int, lag: float = LAG_S, upstream: str = "", pool: str = "",
    metrics: str = "",
) -> Iterator[Running]:
    """The proxy, on a core of its own, before a server of this kind."""
    port, behind = free_port(), free_port()
    with TemporaryDirectory() as directory:
        file = Path(directory, "config.toml")
        file.write_text(_CONFIG.format(
            port=port, lag=lag, behind=behind, connections=connections, upstream=upstream,
            pool=pool, metrics=metrics,
        ))
        argv = [contenders.python(), "-m", "proxy_actors", "run", "--config", str(file)]
        with (
            contenders.upstream(("echo_http.py", kind), behind, LOAD_CORE),
            Pinned(argv, PROXY_CORE, port) as process,
        ):
            yield Running(f"http://127.0.0.1:{port}/mcp", process)


@dataclass
class Seen:
    """What clients saw whose requests left by the clock."""

    seconds: float = 0.0
    cpu: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    served_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    unsent: int = 0

    @property
    def goodput(self) -> float:
        """Calls served a second."""
        return self.statuses[200] / self.seconds


class Client:
    """One connection with one request at a time."""

    def __init__(self, where: tuple[str, int]) -> None:
        self.socket = socket.create_connection(where, 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_s = 0.0
        self.received = b""

    def receive(self) -> int:
        """Return the status of an answer that has come whole; 0 when none has."""
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("a connection was closed under load")
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if not end or len(rest) < int(length):
            return 0
        self.received = b""
        return int(head[9:12])


def offer(running: Running, rate: float, seconds: float) -> Seen:
    """Send requests by the clock, each on a connection that has none underway."""
    fields = load.open_listener(running.url)
    parts = urlsplit(running.url)
    head = steady.head(parts.netloc, parts.path, fields)
    free = deque(Client((parts.hostname or "", parts.port or 80)) for _ in range(CLIENTS))
    selector, seen, busy = selectors.EpollSelector(), Seen(), 0
    for client in free:
        selector.register(client.socket, selectors.EVENT_READ, client)
    began_s, cpu_s, sent = time.monotonic(), running.process.cpu_s(), 0
    while (now_s := time.monotonic()) < began_s + seconds:
        while began_s + sent / rate <= now_s:
            sent += 1
            if not free:
                seen.unsent += 1
                continue
            client = free.popleft()
            client.socket.sendall(head + steady.body(sent))
            client.sent_s, busy = time.monotonic(), busy + 1
        for key, _ in selector.select(max(began_s + sent / rate - time.monotonic(), 0)):
            client = key.data
            status = client.receive()
            if status:
                took_ms = (time.monotonic() - client.sent_s) * 1e3
                (seen.served_ms if status == 200 else seen.refused_ms).append(took_ms)
                seen.statuses[status] += 1
                free.append(client)
    seen.seconds = time.monotonic() - began_s
    seen.cpu = (running.process.cpu_s() - cpu_s) / seen.seconds
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return seen


@dataclass(frozen=True)
class Crowd:
    """What a crowd saw: answers that are errors or late are `wrong`."""

    answers: int
    wrong: int
    seconds: float
    p99_ms: float

    @property
    def goodput(self) -> float:
        """Calls served in time a second."""
        return (self.answers - self.wrong) / self.seconds


def crowd(running: Running, delay_ms: float, seconds: int) -> Crowd:
    """Have many connections each think for a while between two requests."""
    fields = load.open_listener(running.url)
    rows = "\n".join(f'fields["{name}"] = "{value}"' for name, value in fields.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(load.lua(rows) + _DELAY.format(delay_ms=round(delay_ms)))
        script.flush()
        command = [
            "taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s",
            "--timeout", f"{TIMEOUT_S}s", "-s", script.name, running.url,
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report = re.search(r"^report (\d+) (\d+) (\S+) (\S+) (\S+) (\d+)$", out, re.M)
    if report is None:
        raise RuntimeError(out)
    answers, micros, _, _, p99_us, wrong = map(float, report.groups())
    return Crowd(int(answers), int(min(wrong, answers)), micros / 1e6, p99_us / 1e3)


def percentile(values: list[float], which: int) -> float:
    """Return a percentile, 0 where there are no values."""
    return statistics.quantiles(values, n=100)[which - 1] if len(values) > 1 else 0.0


def limited_by_the_upstream(seconds: int) -> tuple[list[str], bool]:
    """Ask 32 slots of 50 ms for what they can do, and for twice that, whoever knows their number.
    """
    lines, peak, held = [], 0.0, True
    with proxy("slots", SLOTS) as running:
        offer(running, SLOTS / SLOT_S / 2, 2)
        for times in (1.0, 2.0):
            seen = offer(running, SLOTS / SLOT_S * times, seconds)
            peak = max(peak, seen.goodput)
            lines.append(row(f"{SLOTS}", times, seen, peak))
            held = bears(seen, peak)
    with limits_told() as (metrics, told), proxy(
        "slots", ADAPTIVE_MAX, pool=f"adaptive-min = {ADAPTIVE_MIN}", metrics=metrics
    ) as running:
        offer(running, SLOTS / SLOT_S / 2, 2)
        told()
        seen = offer(running, SLOTS / SLOT_S * 2, seconds)
        limits = told()
    middle = statistics.median(limits[len(limits) // 2:])
    found = f"found: {min(limits)} to {max(limits)}, {middle:.0f} at last"
    lines.append(row(found, 2.0, seen, peak))
    held = held and bears(seen, peak) and SLOTS <= middle <= 2 * SLOTS
    return lines, held


def row(limit: str, times: float, seen: Seen, peak: float) -> str:
    """One row of the table; it is shown as well."""
    line = (
        f"| {limit} | {times:g} | {seen.goodput:,.0f} | {seen.goodput / peak:.2f} |"
        f" {percentile(seen.served_ms, 50):,.0f} | {sum(seen.statuses.values())} |"
        f" {len(seen.refused_ms)} | {percentile(seen.refused_ms, 50):.2f} |"
        f" {percentile(seen.refused_ms, 99):.2f} | {seen.cpu:.0%} | {seen.unsent} |"
    )
    print(line, file=sys.stderr, flush=True)
    return line


def bears(seen: Seen, peak: float) -> bool:
    """Whether it has served what it must, with refusals that came in time."""
    return (
        set(seen.statuses) <= {200, 503}
        and seen.goodput >= peak * SLOTS_GOODPUT_MIN
        and seen.cpu <= CPU_MAX
        and 0 < percentile(seen.refused_ms, 99) <= REFUSAL_P99_MS_MAX
    )


@contextmanager
def limits_told() -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Listen to metrics: their settings, and what takes the limits that were told since."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)

        def told() -> list[int]:
            limits: list[int] = []
            while True:
                try:
                    data = listener.recv(65536)
                except BlockingIOError:
                    return limits
                limits += map(int, re.findall(rb"\.server\.pool\.limit:(\d+)", data))

        yield _METRICS.format(listener.getsockname()[1]), told


def limited_by_the_proxy(seconds: int) -> tuple[list[str], bool]:
    """Find out what a crowd can get of one core, and ask for twice that, with the gate and without.
    """
    lines, held, peak = [], True, 0.0
    for name, lag in (f"lag-s-max = {LAG_S}", LAG_S), ("off", 0.0):
        with proxy("stateless", 64, lag) as running:
            crowd(running, 1000, 3)
            if not peak:
                rate, got = float(OFFER_FIRST), float(OFFER_FIRST)
                while got >= SHORT * rate:
                    rate *= OFFER_MORE
                    got = crowd(running, CLIENTS / rate * 1e3, seconds).goodput
                    peak = max(peak, got)
            seen = crowd(running, CLIENTS / (2 * peak) * 1e3, seconds)
        lines.append(
            f"| {name} | {peak:,.0f} | {seen.goodput:,.0f} | {seen.goodput / peak:.2f} |"
            f" {seen.p99_ms:,.0f} | {seen.wrong / seen.answers:.1%} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
        held = held and (lag == 0.0 or seen.goodput >= peak * OWN_GOODPUT_MIN)
    return lines, held


def main() -> int:
    """Measure, write, and say whether all is held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    seconds = parser.parse_args().seconds
    os.sched_setaffinity(0, {LOAD_CORE})
    upstream, upstream_held = limited_by_the_upstream(seconds)
    own, own_held = limited_by_the_proxy(seconds)
    text = f"""# Overload

Made by `make bench-overload`, {seconds} s each, {os.cpu_count()} cores.

## The upstream is the limit

{SLOTS} slots of {SLOT_S * 1e3:g} ms behind a pool of as many connections, every other default on;
{CLIENTS:,} connections of one session, requests by the clock. A refusal's time is from the last
byte of its request to the last of its answer, as clients see it. At last the proxy is not told how
many slots there are: `adaptive-min` is {ADAPTIVE_MIN}, and `connections-max` {ADAPTIVE_MAX}.

| calls at once | offered, of capacity | served/s | of the peak | served p50 ms | answers \
| refused | refusal p50 ms | refusal p99 ms | proxy CPU | not sent |
|---|---|---|---|---|---|---|---|---|---|---|
{NEWLINE.join(upstream)}

At least {SLOTS_GOODPUT_MIN} of the peak, refusals within {REFUSAL_P99_MS_MAX:g} ms (p99), CPU at
most {CPU_MAX:.0%}, and where it is found a limit of {SLOTS} to {2 * SLOTS}:
{"held" if upstream_held else "NOT held"}.

## The proxy is the limit

{CLIENTS:,} connections that think between two requests, so that each is cold. The peak is the most
that they get when they ask for more and more, from {OFFER_FIRST:,} a second on; then they ask for
twice that. Answers that take longer than {TIMEOUT_S} s do not count.

| gate | peak/s | goodput/s | of the peak | p99 ms | errors or late |
|---|---|---|---|---|---|
{NEWLINE.join(own)}

At least {OWN_GOODPUT_MIN} of the peak: {"held" if own_held else "NOT held"}.
"""
    RESULTS.write_text(text)
    print(text)
    return 0 if upstream_held and own_held else 1


if __name__ == "__main__":
    sys.exit(main())

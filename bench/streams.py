"""make bench-streams: what event streams cost. Writes STREAMS.md beside this file.

Memory of an idle stream, CPU of an event beside nginx, what the proxy adds to an event's latency,
and a broadcast to ten thousand. Each proxy alone on one core, server and readers on another.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import contenders
import load
from contenders import LOAD_CORE, PROXY_CORE, Running
from processes import Pinned, free_port

STREAMS = 100
RATE = 50
IDLE_HTTP, IDLE_STDIO = 2000, 10_000
RESULTS = Path(__file__).with_name("STREAMS.md")
KB_MAX = 20.0
CPU_OF_NGINX_MAX = 4.0
_SENT_NS = re.compile(rb'"data":(\d+)')
_BROADCAST = b"tools/list_changed"
_CONFIG = """
listen = "127.0.0.1:{port}"
[http]
connections-max = 30000
connections-per-address-max = 30000
[sessions]
sessions-max = 30000
[rate-limits]
initialize-rate = 100000
initialize-burst = 100000
[upstreams.server]
{upstream}
"""


class Reader(asyncio.Protocol):
    """One stream, counted and timed."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.opened = asyncio.Event()
        self.refusal = b""
        self.events = 0
        self.broadcasts = 0
        self.latencies_ms: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self.opened.is_set():
            if not data.startswith(b"HTTP/1.1 200"):
                self.refusal = data[:300]
            self.opened.set()
        sent = _SENT_NS.findall(data)
        self.events += len(sent)
        self.broadcasts += data.count(_BROADCAST)
        self.latencies_ms += [(now_ns - int(each)) / 1e6 for each in sent]


@dataclass
class Readers:
    """All streams of a run."""

    port: int
    readers: list[Reader] = field(default_factory=list)

    async def open(self, sessions: Sequence[dict[str, str]]) -> None:
        """Open a stream for each session, some at a time."""
        loop = asyncio.get_running_loop()
        for fields in sessions:
            rows = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            host = f"127.0.0.1:{self.port}"
            request = f"GET /mcp HTTP/1.1\r\nHost: {host}\r\n{rows}\r\n".encode()
            _, reader = await loop.create_connection(
                lambda request=request: Reader(request), "127.0.0.1", self.port  # type: ignore
            )
            self.readers.append(reader)
            if len(self.readers) % 100 == 0:
                await self._opened(100)
        await self._opened(100)

    async def _opened(self, latest: int) -> None:
        """Wait until the latest ones are open."""
        for reader in self.readers[-latest:]:
            await asyncio.wait_for(reader.opened.wait(), 30)
            if reader.refusal:
                raise RuntimeError(f"no stream: {reader.refusal!r}")

    def reset(self) -> None:
        """Forget what was counted."""
        for reader in self.readers:
            reader.events = reader.broadcasts = 0
            reader.latencies_ms = []


@dataclass(frozen=True)
class Flow:
    """What a run of events saw."""

    events_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def sessions(url: str, count: int) -> list[dict[str, str]]:
    """Open sessions, and return the fields of their GETs."""
    return [load.open_listener(url) for _ in range(count)]


@contextmanager
def proxy_actors(upstream: str) -> Iterator[Running]:
    """This project, with bounds that let all of it in."""
    port = free_port()
    with TemporaryDirectory() as directory:
        config = Path(directory, "proxy_actors.toml")
        config.write_text(_CONFIG.format(port=port, upstream=upstream))
        argv = [contenders.python(), "-m", "proxy_actors", "run", "--config", str(config)]
        with Pinned(argv, PROXY_CORE, port, without=contenders.ECHO_STDIO) as process:
            yield Running(f"http://127.0.0.1:{port}/mcp", process)


@contextmanager
def over_stdio() -> Iterator[Running]:
    """This project in front of one process for all sessions, which is on the core of the load."""
    command = ", ".join(f'"{word}"' for word in contenders.stdio_server())
    with proxy_actors(f'command = [{command}]\nstdio = "shared"') as running:
        yield running


@contextmanager
def over_http(rate: str) -> Iterator[Running]:
    """This project in front of the server of events."""
    behind = free_port()
    pool = "[upstreams.server.pool]\nstreams-max = 20000"
    with (
        contenders.upstream(("echo_sse.py", rate, str(STREAMS)), behind, LOAD_CORE),
        proxy_actors(f'url = "http://127.0.0.1:{behind}/mcp"\n{pool}') as running,
    ):
        yield running


async def flow(contender: AbstractContextManager[Running], seconds: float) -> Flow:
    """Measure a flow of events."""
    with contender as running:
        readers = Readers(_port(running))
        await readers.open(sessions(running.url, STREAMS))
        await asyncio.sleep(2)
        readers.reset()
        before_s, began_s = running.process.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - began_s
        used_s = running.process.cpu_s() - before_s
        events = sum(reader.events for reader in readers.readers)
        latencies = [each for reader in readers.readers for each in reader.latencies_ms]
        cuts = statistics.quantiles(latencies, n=100)
        return Flow(events / took_s, used_s / events * 1e6, cuts[49], cuts[98])


async def idle(
    running: Running, readers: Readers, fields: Sequence[dict[str, str]]
) -> float:
    """Open a stream for each session; return the KB that one takes in which nothing happens."""
    before = running.process.rss_bytes()
    await readers.open(fields)
    await asyncio.sleep(2)
    return (running.process.rss_bytes() - before) / len(fields) / 1024


async def idle_over_http() -> float:
    """Return the KB of an idle stream of an HTTP upstream."""
    with over_http("0") as running:
        return await idle(running, Readers(_port(running)), sessions(running.url, IDLE_HTTP))


async def broadcast() -> tuple[float, float]:
    """Return the KB of an idle stream of a stdio upstream, and the seconds of a message to all."""
    with over_stdio() as running:
        readers, fields = Readers(_port(running)), sessions(running.url, IDLE_STDIO)
        kb = await idle(running, readers, fields)
        began_s = time.monotonic()
        load.call_tool(running.url, fields[0], "broadcast")
        while not all(reader.broadcasts for reader in readers.readers):
            await asyncio.sleep(0.001)
            if time.monotonic() - began_s > 60:
                raise RuntimeError("a message did not reach every stream")
        return kb, time.monotonic() - began_s


def _port(running: Running) -> int:
    return int(running.url.split(":")[2].split("/")[0])


async def measure(seconds: float) -> tuple[str, bool]:
    """Measure everything; return the report, and whether the floors are held."""
    servers = {
        "server alone": lambda rate: contenders.alone(("echo_sse.py", rate, str(STREAMS))),
        "nginx": lambda rate: contenders.nginx(("echo_sse.py", rate, str(STREAMS)), "off"),
        contenders.PROXY_ACTORS: over_http,
    }
    flows: dict[str, list[Flow]] = {}
    for name, contender in servers.items():
        flows[name] = [await flow(contender(rate), seconds) for rate in (str(RATE), "-1")]
        print(name, flows[name], file=sys.stderr, flush=True)
    kb_http = await idle_over_http()
    kb_stdio, all_s = await broadcast()
    ours, nginx = flows[contenders.PROXY_ACTORS], flows["nginx"]
    ratios = [mine.cpu_us / its.cpu_us for mine, its in zip(ours, nginx, strict=True)]
    rows = "\n".join(
        f"| {name} | {steady.events_s:,.0f} | {steady.cpu_us:.1f} | {steady.p50_ms:.2f} |"
        f" {steady.p99_ms:.2f} | {fast.events_s:,.0f} | {fast.cpu_us:.1f} |"
        for name, (steady, fast) in flows.items()
    )
    held = max(ratios) <= CPU_OF_NGINX_MAX and max(kb_http, kb_stdio) <= KB_MAX
    return _report(rows, ratios, kb_http, kb_stdio, all_s), held


def _report(
    rows: str, ratios: list[float], kb_http: float, kb_stdio: float, all_s: float
) -> str:
    return f"""# Streams

Made by `make bench-streams`.

## Events

{STREAMS} standalone streams over HTTP, one event a write: {RATE} events a second on each, then as
many as go. nginx with `proxy_buffering off`. A latency is from the server's write to the reader.

| | events/s | CPU us an event | p50 ms | p99 ms | at full speed: events/s | CPU us an event |
|---|---|---|---|---|---|---|
{rows}

In nginx's: {ratios[0]:.2f} and {ratios[1]:.2f} (at most {CPU_OF_NGINX_MAX:g}).

## Idle streams

| | streams | KB each, at most {KB_MAX:g} |
|---|---|---|
| HTTP upstream | {IDLE_HTTP:,} | {kb_http:.1f} |
| stdio upstream, shared | {IDLE_STDIO:,} | {kb_stdio:.1f} |

One message of the stdio server reached all {IDLE_STDIO:,} streams within {all_s:.2f} s.
"""


def main() -> int:
    """Measure, report, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of a flow (default: 5)")
    known = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    text, held = asyncio.run(measure(known.seconds))
    RESULTS.write_text(text)
    print(text)
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())

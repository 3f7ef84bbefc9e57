"""`python -m chaos.soak [--seed N] [--write FILE]`: mixed traffic and faults for SOAK_S seconds.

Part of the scorecard as P22. Clients of several principals use servers over HTTP and on stdio; the
weather has a fault every few seconds; every five seconds the proxy is measured. It passes when
nothing is lost, when memory, descriptors, children and greenlets are flat in the second half, and
when all is back to what it was at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos.ending import unwind_when_told
from chaos.fault_proxy import FaultProxy
from chaos.footing import inside, leaks, rss_bytes, settled
from chaos.ledger import SECRET
from chaos.servers import DEMO, HttpServer, command_upstream, stdio_upstream
from chaos.traffic import Books, Client
from chaos.weather import Weather
from tests.wire.proxy_process import ProxyProcess, running

SAMPLE_S = 5.0
DEADLINE_S = 5.0
PRINCIPALS = ("ann", "bob", "eve")
# The servers, and how many clients each has.
CLIENTS = {"http": 4, "streams": 4, "child": 3, "shared": 3}
# How much more there may be at the end of the second half, by its slope, than in its middle.
GROWTH_MAX = {"rss MB": 0.03, "fds": 0.1, "children": 0.1, "greenlets": 0.1}
# P22, of a run that is long enough to tell a slope from the ups and downs of a few minutes.
RSS_MB_AN_HOUR_MAX = 1.0
SLOPE_S_MIN = 3600.0
STEADY = {
    "proxy_actors.policy.stdio_shared_children.STEADY_S": 1.0,
    "proxy_actors.policy.liveness.QUIET_S": 2.0,
    "proxy_actors.policy.liveness.PING_S": 2.0,
}


@dataclass
class Sample:
    """The proxy at a moment; the names of its figures are those of the table."""

    at_s: float
    figures: dict[str, float]


@dataclass
class Result:
    """What a soak has shown."""

    seconds: float
    seed: int
    samples: list[Sample]
    books: Books
    faults: Counter[str]
    told: list[str]


def soak(seconds: float, seed: int) -> Result:
    """Run one."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journals = {name: directory / f"journal-{name}" for name in CLIENTS}
        words = {"http": (), "streams": ("ids",)}
        servers = {
            name: stack.enter_context(HttpServer(journals[name], *words[name])) for name in words
        }
        relays = {name: FaultProxy(server.address, seed) for name, server in servers.items()}
        for relay in relays.values():
            stack.enter_context(relay)
        file = directory / "config.toml"
        file.write_text(_configuration(relays, journals))
        proxy = stack.enter_context(running("--config", str(file), settings=STEADY))
        books = Books(DEADLINE_S)
        before = settled(proxy, 2.0)
        clients = [
            Client(
                books, proxy.address, name, _key(PRINCIPALS[n % len(PRINCIPALS)]),
                f"{seed} {name} {n}", name == "streams",
            )
            for name, count in CLIENTS.items()
            for n in range(count)
        ]
        for client in clients:
            client.start()
        weather = Weather(proxy, list(servers.values()), list(relays.values()), seed)
        weather.start()
        stack.callback(weather.stop)
        samples = _watch(proxy, seconds, books)
        weather.stop()
        for client in clients:
            client.stop()
        for client in clients:
            client.join(60.0)
        told = leaks(proxy, before)
        for journal in journals.values():
            books.check(journal)
        books.check_missing()
        if SECRET in proxy.log():
            told.append("the log tells a secret")
        told += [f"lost: {wrong}" for wrong in books.wrong]
        told += [x for x in map(lambda name: uneven(name, samples), GROWTH_MAX) if x]
        if seconds >= SLOPE_S_MIN and slope("rss MB", samples) >= RSS_MB_AN_HOUR_MAX:
            told.append(f"rss MB grows by {RSS_MB_AN_HOUR_MAX:.0f} or more an hour")
        return Result(seconds, seed, samples, books, weather.played, told)


def _configuration(relays: dict[str, FaultProxy], journals: dict[str, Path]) -> str:
    parts = ["[streams]\nage-s-max = 5\nretry-ms = 50\n"]
    for principal in PRINCIPALS:
        digest = hashlib.sha256(_key(principal).encode()).hexdigest()
        parts.append(f'[[keys]]\nid = "{principal}"\nsha256 = "{digest}"\n')
    for name, relay in relays.items():
        parts.append(
            f'[upstreams.{name}]\nurl = "{relay.url}"\ncall-timeout-s = {DEADLINE_S}\n'
            f'headers = {{ Authorization = "Bearer {SECRET}" }}\ntransport = "streamable"\n'
            f"[upstreams.{name}.pool]\nidle-timeout-s = 0.5\n"
            f"[upstreams.{name}.reconnect]\nbase-s = 0.05\ncap-s = 0.5\nattempts-max = 30\n"
        )
    for name, mode in (("child", "session"), ("shared", "shared")):
        table = stdio_upstream(mode, journals[name], call_timeout_s=DEADLINE_S)
        parts.append(f"[upstreams.{name}]\n{table}")
    parts.append(f"[upstreams.demo]\n{command_upstream('shared', DEMO)}")
    return "\n".join(parts)


def _key(principal: str) -> str:
    return f"key-of-{principal}-for-a-soak"


def _watch(proxy: ProxyProcess, seconds: float, books: Books) -> list[Sample]:
    began_s = time.monotonic()
    samples: list[Sample] = []
    while (passed_s := time.monotonic() - began_s) < seconds and proxy.lives:
        said = inside(proxy)
        figures = {
            "rss MB": rss_bytes(proxy.pid) / 1e6,
            "fds": proxy.fds(),
            "children": len(proxy.descendants()),
            "greenlets": said.greenlets,
        }
        samples.append(Sample(passed_s, figures))
        if len(samples) % 12 == 0:
            shown = ", ".join(f"{name} {value:.0f}" for name, value in figures.items())
            print(f"{passed_s:6.0f} s  {shown}, calls {books.total}, wrong {len(books.wrong)}",
                  flush=True)  # fmt: skip
        time.sleep(SAMPLE_S)
    return samples


def _half(name: str, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    later = samples[len(samples) // 2 :]
    return [x.at_s for x in later], [x.figures[name] for x in later]


def slope(name: str, samples: Sequence[Sample]) -> float:
    """How much a figure grows in an hour, by the second half."""
    return statistics.linear_regression(*_half(name, samples)).slope * 3600


def uneven(name: str, samples: Sequence[Sample]) -> str:
    """Say how much a figure has grown in the second half, if it is too much."""
    times, values = _half(name, samples)
    growth = slope(name, samples) / 3600 * (times[-1] - times[0])
    if growth <= GROWTH_MAX[name] * statistics.mean(values):
        return ""
    return f"{name} grew by {growth:.1f} in the second half"


def document(result: Result) -> str:
    """The whole of docs/soak.md."""
    books, samples = result.books, result.samples
    lines = [
        "# Soak", "",
        "What `make soak` has shown last: mixed traffic and a fault every few seconds, for "
        f"{result.seconds / 60:.0f} minutes",
        f"with seed {result.seed}. `SOAK_S=600 make soak` runs for ten minutes. This file is what "
        "a run has written.", "",
        f"Result: {'pass' if not result.told else 'FAIL'}.", "",
        *(f"- {told}" for told in result.told), *([""] if result.told else []),
        "| figure | start | half time | end | slope of the second half |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in GROWTH_MAX:
        shown = [samples[at].figures[name] for at in (0, len(samples) // 2, -1)]
        row = " | ".join(f"{value:.1f}" for value in shown)
        lines.append(f"| {name} | {row} | {slope(name, samples):+.2f} an hour |")
    lines += ["", "At the end, with all sessions ended, descriptors, processes, actors and "
              "greenlets were what they were", "at the start, unless it is said above.", ""]
    lines += [f"{books.total} calls; what became of them, by server:", ""]
    lines += ["| server | " + " | ".join(books.kinds) + " |", "|---" * (len(books.kinds) + 1) + "|"]
    for name in CLIENTS:
        cells = [str(books.endings[name, kind] or "") for kind in books.kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "What clients did: " + _listed(books.did) + ".", ""]
    lines += ["Faults: " + _listed(result.faults) + ".", ""]
    return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main() -> int:
    """Run, print and write; return 1 if it was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file to write the figures into")
    options = parser.parse_args()
    unwind_when_told()
    result = soak(float(os.environ.get("SOAK_S", "3600")), options.seed)
    text = document(result)
    print(text)
    if options.write is not None:
        options.write.write_text(text)
    return 1 if result.told else 0


if __name__ == "__main__":
    sys.exit(main())

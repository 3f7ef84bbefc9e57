"""make bench: measures, writes RESULTS.md beside this file, and fails when a floor is not held.

Each proxy runs alone on one pinned core, the echo server and the load on another. The contenders
take turns, so that a slow minute of the machine is everybody's; each figure is the median of its
runs. CPU microseconds a request are what survives a change of machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import load
import startup
import steady
from contenders import HTTP, LOAD_CORE, PROXY_ACTORS, PROXY_CORE, STDIO, Contender

CONNECTIONS = 64
WARM_UP_S = 2
RESULTS = Path(__file__).with_name("RESULTS.md")

OPEN_CONNECTIONS = 1000
STEADY_RATE = 2000

CPU_OF_NGINX_MAX = 2.5
STDIO_RATE_MIN = 5.0
STEADY_P95_MS_MAX = 5.0
STEADY_MB_MAX = 60.0
FIRST_ANSWER_S_MAX = 0.4
HELP_S_MAX = 0.12
CHECK_S_MAX = 0.12
ORPHANS_S_MAX = 1.0


@dataclass(frozen=True)
class Run:
    """One contender, once."""

    rate: float
    cpu_us: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rss_mb: float


Runs = Mapping[str, list[Run]]


@dataclass(frozen=True)
class Floor:
    """A figure that must be held."""

    name: str
    figure: float
    bound: float
    at_least: bool = False

    @property
    def held(self) -> bool:
        """Whether it is."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


def measure(contender: Contender, seconds: int) -> Run:
    """Start a contender, warm it up, load it."""
    with contender() as running:
        load.run(running.url, CONNECTIONS, WARM_UP_S, LOAD_CORE)
        before_s = running.process.cpu_s()
        seen = load.run(running.url, CONNECTIONS, seconds, LOAD_CORE)
        used_s = running.process.cpu_s() - before_s
        return Run(
            rate=seen.rate,
            cpu_us=used_s / seen.requests * 1e6,
            p50_ms=seen.p50_ms,
            p95_ms=seen.p95_ms,
            p99_ms=seen.p99_ms,
            rss_mb=running.process.rss_bytes() / 1e6,
        )


def alternate(table: Mapping[str, Contender], repeats: int, seconds: int) -> Runs:
    """Measure all of them in turns."""
    runs: dict[str, list[Run]] = {name: [] for name in table}
    for number in range(repeats):
        for name, contender in table.items():
            run = measure(contender, seconds)
            runs[name].append(run)
            print(f"{number + 1}/{repeats} {name}: {run.rate:,.0f}/s {run.cpu_us:.1f} us",
                  file=sys.stderr, flush=True)
    return runs


def median(runs: list[Run], field: str) -> float:
    """Return the median of one figure."""
    return statistics.median(getattr(run, field) for run in runs)


def table(runs: Runs) -> str:
    """Make the table of a comparison."""
    lines = [
        "| | requests/s | CPU us a request | p50 ms | p95 ms | p99 ms | memory MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_it in runs.items():
        rate, cpu, p50, p95, p99, rss = (
            median(of_it, field)
            for field in ("rate", "cpu_us", "p50_ms", "p95_ms", "p99_ms", "rss_mb")
        )
        lines.append(
            f"| {name} | {rate:,.0f} | {cpu:.1f} | {p50:.2f} | {p95:.2f} | {p99:.2f} | {rss:.0f} |"
        )
    return "\n".join(lines)


def measure_steady(contender: Contender, seconds: int) -> tuple[steady.Steady, float]:
    """Load by the clock over many open connections; return what was seen, and the MB in use."""
    with contender() as running:
        steady.run(running.url, OPEN_CONNECTIONS, STEADY_RATE, WARM_UP_S)
        seen = steady.run(running.url, OPEN_CONNECTIONS, STEADY_RATE, seconds)
        return seen, running.process.rss_bytes() / 1e6


def gates(
    http: Runs, stdio: Runs, steadily: steady.Steady, steady_mb: float, started: startup.Startup
) -> list[Floor]:
    """List the floors."""
    of_nginx = median(http[PROXY_ACTORS], "cpu_us") / median(http["nginx"], "cpu_us")
    fastest_peer = max(median(runs, "rate") for name, runs in stdio.items() if name != PROXY_ACTORS)
    of_peer = median(stdio[PROXY_ACTORS], "rate") / fastest_peer
    return [
        Floor("CPU a request, HTTP to HTTP, in nginx's", of_nginx, CPU_OF_NGINX_MAX),
        Floor("requests/s, stdio, in the faster peer's", of_peer, STDIO_RATE_MIN, at_least=True),
        Floor(f"p95 at {STEADY_RATE:,}/s, ms", steadily.p95_ms, STEADY_P95_MS_MAX),
        Floor(f"memory at {OPEN_CONNECTIONS:,} connections, MB", steady_mb, STEADY_MB_MAX),
        Floor("exec to the first answer, s", started.first_answer_s, FIRST_ANSWER_S_MAX),
        Floor("`--help` beyond bare Python, s", started.help_s, HELP_S_MAX),
        Floor("`check` beyond bare Python, s", started.check_s, CHECK_S_MAX),
        Floor("kill -9 to the end of every descendant, s", started.orphans_s, ORPHANS_S_MAX),
    ]


def report(
    http: Runs, stdio: Runs, steadily: steady.Steady, floors: list[Floor], arguments: str
) -> str:
    """Make RESULTS.md."""
    rows = "\n".join(
        f"| {floor.name} | {floor.figure:.3g} | {'at least' if floor.at_least else 'at most'}"
        f" {floor.bound:g} | {'yes' if floor.held else '**no**'} |"
        for floor in floors
    )
    return f"""# Results

Made by `make bench` ({arguments}) on {date.today()}: Python {platform.python_version()},
{os.cpu_count()} cores of the kind "{_cpu()}".

## HTTP to HTTP

A `tools/call` of 110 bytes over {CONNECTIONS} connections within one session, answered by an echo
server; every default of the proxy on. Each proxy alone on one core, echo server and wrk on another.
nginx is one worker that passes requests on over kept connections and knows nothing of MCP.

{table(http)}

## stdio to HTTP

The same call, answered by one process that speaks stdio, on the core of the load. Each proxy with
its defaults; ours starts a process for each session, and here is one session.

{table(stdio)}

## {OPEN_CONNECTIONS:,} open connections

HTTP to HTTP, {STEADY_RATE:,} requests a second by the clock, over the connections in turn. A
latency counts from the time at which its request was to leave.

| requests/s | p50 ms | p95 ms | p99 ms |
|---|---|---|---|
| {steadily.rate:,.0f} | {steadily.p50_ms:.2f} | {steadily.p95_ms:.2f} | {steadily.p99_ms:.2f} |

## Floors

| figure | measured | bound | held |
|---|---|---|---|
{rows}
"""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def main() -> int:
    """Measure, report, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each contender (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, help="of load in a run (default: 5)")
    parser.add_argument("--only", choices=["http", "stdio", "steady", "startup"],
                        help="measure one thing, write nothing")
    known = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the proxy, one for the load")
    os.sched_setaffinity(0, {LOAD_CORE})
    # As installed: what is measured is compiled once, and not at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if known.only:
        print(_only(known.only, known.runs, known.seconds))
        return 0
    started = startup.measure(PROXY_CORE)
    http = alternate(HTTP, known.runs, known.seconds)
    stdio = alternate(STDIO, known.runs, known.seconds)
    steadily, steady_mb = measure_steady(HTTP[PROXY_ACTORS], known.seconds)
    floors = gates(http, stdio, steadily, steady_mb, started)
    arguments = f"{known.runs} runs of {known.seconds} s each, medians"
    text = report(http, stdio, steadily, floors, arguments)
    RESULTS.write_text(text)
    print(text)
    return int(not all(floor.held for floor in floors))


def _only(what: str, runs: int, seconds: int) -> object:
    match what:
        case "http":
            return table(alternate(HTTP, runs, seconds))
        case "stdio":
            return table(alternate(STDIO, runs, seconds))
        case "steady":
            return measure_steady(HTTP[PROXY_ACTORS], seconds)
        case _:
            return startup.measure(PROXY_CORE)


if __name__ == "__main__":
    sys.exit(main())

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
from contenders import HTTP, LOAD_CORE, PROXY_ACTORS, PROXY_CORE, Contender

CONNECTIONS = 64
WARM_UP_S = 2
RESULTS = Path(__file__).with_name("RESULTS.md")

CPU_OF_NGINX_MAX = 3.3
FIRST_ANSWER_S_MAX = 0.4
HELP_S_MAX = 0.12


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


def gates(http: Runs, started: startup.Startup) -> list[tuple[str, float, float]]:
    """List the floors: what is measured, its figure, and what it may be at the most."""
    ratio = median(http[PROXY_ACTORS], "cpu_us") / median(http["nginx"], "cpu_us")
    return [
        ("CPU a request, HTTP to HTTP, in nginx's", ratio, CPU_OF_NGINX_MAX),
        ("exec to the first answer, s", started.first_answer_s, FIRST_ANSWER_S_MAX),
        ("`--help` beyond bare Python, s", started.help_s, HELP_S_MAX),
    ]


def report(http: Runs, floors: list[tuple[str, float, float]], arguments: str) -> str:
    """Make RESULTS.md."""
    rows = "\n".join(
        f"| {name} | {figure:.3g} | {bound:g} | {'yes' if figure <= bound else '**no**'} |"
        for name, figure, bound in floors
    )
    return f"""# Results

Made by `make bench` ({arguments}) on {date.today()}: Python {platform.python_version()},
{os.cpu_count()} cores of the kind "{_cpu()}".

## HTTP to HTTP

A `tools/call` of 110 bytes over {CONNECTIONS} connections within one session, answered by an echo
server; every default of the proxy on. Each proxy alone on one core, echo server and wrk on another.
nginx is one worker that passes requests on over kept connections and knows nothing of MCP.

{table(http)}

## Floors

| figure | measured | at most | held |
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
    parser.add_argument("--only", choices=[*HTTP], help="measure one contender, write nothing")
    known = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the proxy, one for the load")
    if known.only:
        alternate({known.only: HTTP[known.only]}, known.runs, known.seconds)
        return 0
    started = startup.measure(PROXY_CORE)
    http = alternate(HTTP, known.runs, known.seconds)
    floors = gates(http, started)
    text = report(http, floors, f"{known.runs} runs of {known.seconds} s each, medians")
    RESULTS.write_text(text)
    print(text)
    return int(any(figure > bound for _, figure, bound in floors))


if __name__ == "__main__":
    sys.exit(main())

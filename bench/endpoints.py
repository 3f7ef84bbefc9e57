"""make bench-endpoints: one of three servers fails. Writes ENDPOINTS.md beside this file.

A `tools/call` over 64 connections within one session whose calls are bound to no endpoint, spread
over three echo servers. Then one of them refuses connections, answers every call with 500, or
answers nothing any more. What must be held is the throughput, and that clients see errors only
until the server is left alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import contenders
import load
from contenders import LOAD_CORE, PROXY_CORE
from processes import Pinned, free_port

CONNECTIONS = 64
WARM_UP_S = 2
RESULTS = Path(__file__).with_name("ENDPOINTS.md")
RATE_MIN = 0.6
ERRORS_MAX = 0.01
NAMES = ("one", "two", "three")
_CONFIG = """
listen = "127.0.0.1:{port}"
[upstreams.server]
affinity = "none"
balance = "{balance}"
call-timeout-s = 5
"""
_ENDPOINT = """
[upstreams.server.endpoints.{name}]
url = "http://127.0.0.1:{port}/mcp"
"""


@dataclass(frozen=True)
class Stage:
    """A proxy before three servers."""

    url: str
    servers: list[Pinned]


@contextmanager
def stage(balance: str, last: str = "stateless") -> Iterator[Stage]:
    """Start everything; the last server is of this kind."""
    port, behind = free_port(), [free_port() for _ in NAMES]
    with TemporaryDirectory() as directory, ExitStack() as running:
        text = _CONFIG.format(port=port, balance=balance)
        for name, its in zip(NAMES, behind):
            text += _ENDPOINT.format(name=name, port=its)
        file = Path(directory, "config.toml")
        file.write_text(text)
        kinds = ["stateless", "stateless", last]
        servers = [
            running.enter_context(contenders.upstream(("echo_http.py", kind), its, LOAD_CORE))
            for kind, its in zip(kinds, behind)
        ]
        argv = [contenders.python(), "-m", "proxy_actors", "run", "--config", str(file)]
        running.enter_context(Pinned(argv, PROXY_CORE, port))
        yield Stage(f"http://127.0.0.1:{port}/mcp", servers)


def nothing(stage: Stage) -> None:
    """Leave all servers as they are."""


def kill(stage: Stage) -> None:
    """Have the last server refuse connections."""
    stage.servers[-1].kill()


def stop(stage: Stage) -> None:
    """Have the last server answer nothing, its connections open."""
    stage.servers[-1].pause()


FAULTS: dict[str, tuple[str, Callable[[Stage], None]]] = {
    "none": ("stateless", nothing),
    "refuses connections": ("stateless", kill),
    "answers 500": ("failing", nothing),
    "answers nothing": ("stateless", stop),
}


def measure(balance: str, fault: str, seconds: int) -> load.Load:
    """Warm up with all servers well, where they are; then load, with the fault from the start."""
    last, inject = FAULTS[fault]
    with stage(balance, last) as staged:
        # Opened while all are well: `initialize` may be given to a server that is silent.
        session = load.open_listener(staged.url)
        load.run(staged.url, CONNECTIONS, WARM_UP_S, LOAD_CORE, True, session)
        inject(staged)
        return load.run(staged.url, CONNECTIONS, seconds, LOAD_CORE, True, session)


def main() -> int:
    """Measure, write, and say whether all is held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--balance", default="two-choices")
    options = parser.parse_args()
    seen = {fault: measure(options.balance, fault, options.seconds) for fault in FAULTS}
    peak = seen["none"].rate
    how = (
        "Made by `make bench-endpoints`: " + (__doc__ or "").split("\n\n")[1]
        + f" `balance = \"{options.balance}\"`, {options.seconds} s each, {os.cpu_count()} cores."
    )
    lines = [
        "# One of three servers fails", "",
        textwrap.fill(" ".join(how.split()), 100), "",
        "| what one does | requests/s | of the peak | p50 ms | p99 ms | errors % |",
        "|---|---|---|---|---|---|",
    ]
    held = True
    for fault, x in seen.items():
        share, errors = (x.rate - x.errors / options.seconds) / peak, x.errors / x.requests
        held = held and share >= RATE_MIN and errors <= ERRORS_MAX
        lines.append(
            f"| {fault} | {x.rate:,.0f} | {share:.2f} | {x.p50_ms:.2f} | {x.p99_ms:.2f} "
            f"| {errors * 100:.3f} |"
        )
    lines += ["", f"At least {RATE_MIN} of the peak, at most {ERRORS_MAX:.0%} errors: "
              + ("held." if held else "NOT held.")]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long a person or a supervisor waits: exec to the first answer, and to the help text."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from processes import Pinned, free_port

REPEATS = 9
HERE = Path(__file__).parent
_HELP = ["-m", "proxy_actors", "--help"]
_CHECK = ["-m", "proxy_actors", "check", str(HERE.parent / "deploy" / "proxy_actors.toml")]
_BARE = ["-c", "pass"]


@dataclass(frozen=True)
class Startup:
    """Medians in seconds. `help_s` and `check_s` are beyond what the bare interpreter takes."""

    first_answer_s: float
    help_s: float
    check_s: float


def measure(core: int) -> Startup:
    """Start everything a few times."""
    answers = [_first_answer_s(core) for _ in range(REPEATS)]
    helps = [_run_s(_HELP) - _run_s(_BARE) for _ in range(REPEATS)]
    checks = [_run_s(_CHECK) - _run_s(_BARE) for _ in range(REPEATS)]
    return Startup(*map(statistics.median, (answers, helps, checks)))


def _first_answer_s(core: int) -> float:
    port = free_port()
    argv = [
        sys.executable, "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}",
        "--", sys.executable, "-m", "proxy_actors.demo",
    ]
    began_s = time.monotonic()
    with Pinned(argv, core, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            answer.read()
        return time.monotonic() - began_s


def _run_s(arguments: list[str]) -> float:
    began_s = time.monotonic()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began_s

"""How long a person or a supervisor waits: exec to the first answer, and to the help text."""

from __future__ import annotations

import compileall
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import Pinned, free_port

REPEATS = 9
HERE = Path(__file__).parent
_HELP = ["-m", "proxy_actors", "--help"]
_CHECK = ["-m", "proxy_actors", "check", str(HERE.parent / "deploy" / "proxy_actors.toml")]
_BARE = ["-c", "pass"]


@dataclass(frozen=True)
class Startup:
    """Medians in seconds. `help_s` and `check_s` are beyond what the bare interpreter takes.

    `orphans_s` is from kill -9 of the proxy to the end of the last of its descendants.
    """

    first_answer_s: float
    help_s: float
    check_s: float
    orphans_s: float


def measure(core: int) -> Startup:
    """Start everything a few times; the package is compiled, as it is where it is installed."""
    compileall.compile_dir(HERE.parent / "proxy_actors", quiet=2)
    answers = [_first_answer_s(core) for _ in range(REPEATS)]
    helps = [_run_s(_HELP) - _run_s(_BARE) for _ in range(REPEATS)]
    checks = [_run_s(_CHECK) - _run_s(_BARE) for _ in range(REPEATS)]
    orphans = [_orphans_s(core) for _ in range(REPEATS)]
    return Startup(*map(statistics.median, (answers, helps, checks, orphans)))


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


def _orphans_s(core: int) -> float:
    """Kill the proxy with -9, and wait for a server that ignores all that can be ignored."""
    port = free_port()
    with TemporaryDirectory() as directory:
        pids_file = Path(directory, "pids")
        argv = [
            sys.executable, "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}",
            "--stdio", "shared", "--", sys.executable, str(HERE / "stubborn.py"), str(pids_file),
        ]
        with Pinned(argv, core, port) as proxy:
            while len(pids := pids_file.read_text().split() if pids_file.exists() else []) < 2:
                time.sleep(0.001)
            began_s = time.monotonic()
            proxy.kill()
            while any(Path(f"/proc/{pid}").exists() for pid in pids):
                time.sleep(0.001)
            return time.monotonic() - began_s


def _run_s(arguments: list[str]) -> float:
    began_s = time.monotonic()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began_s

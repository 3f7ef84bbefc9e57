"""Memory that was freed goes back to the system, though it lay between other things."""

from __future__ import annotations

import subprocess
import sys
import threading

from proxy_actors.transports.heap import HeapTrimmer

# Only ever waited out when nothing is given back.
PATIENCE_S = 60.0
RSS = """
import sys, time
from pathlib import Path
from proxy_actors.transports.heap import HeapTrimmer, keep_large_out

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
"""
TRIMMED = f"""
large, small = [], []
for _ in range(400):
    large.append(b"x" * 100_000)
    small.append(b"x" * 5000)
full = rss_mb()
del large
print(full - rss_mb(), flush=True)
trimmer, until_s = HeapTrimmer(0.01), time.monotonic() + {PATIENCE_S}
while full - rss_mb() < 35 and time.monotonic() < until_s:
    pass
print(full - rss_mb())
"""
# A first large piece is freed, which has glibc take the next ones from its heap.
KEPT_OUT = """
if len(sys.argv) > 1:
    keep_large_out()
freed = b"x" * 1_000_000
del freed
large, small = [], []
for _ in range(80):
    large.append(b"x" * 500_000)
    small.append(b"x" * 5000)
full = rss_mb()
del large
print(full - rss_mb())
"""


def run(code: str, *words: str) -> list[float]:
    """Return what a fresh Python prints."""
    program = [sys.executable, "-c", RSS + code, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_what_was_freed_is_given_back() -> None:
    """40 MB. Without it they would be kept: else there is nothing to mend."""
    before, after = run(TRIMMED)
    assert before < 10
    assert after >= 35


def test_what_is_large_goes_when_it_is_freed() -> None:
    """40 MB, as above."""
    (before,) = run(KEPT_OUT)
    (after,) = run(KEPT_OUT, "kept out")
    assert before < 10
    assert after >= 35


def test_thread_ends_with_the_trimmer() -> None:
    trimmer = HeapTrimmer(0.01)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "heap"]
    trimmer.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()

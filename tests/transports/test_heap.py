"""Memory that was freed goes back to the system, though there have been larger blocks before."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from pathlib import Path
from proxy_actors.transports.heap import give_large_blocks_back

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

if "give" in sys.argv:
    give_large_blocks_back()
largest = b"x" * (30 << 20)
del largest
large, small = [], []
for _ in range(40):
    large.append(b"x" * (1 << 20))
    small.append(b"x" * 5000)
full = rss_mb()
del large
print(full - rss_mb())
"""


def freed_mb(*arguments: str) -> float:
    """Return how much less a process has when it has freed 42 MB that lie among other blocks."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_large_blocks_are_given_back() -> None:
    assert freed_mb("give") > 35


def test_without_it_they_would_be_kept() -> None:
    """Else there is nothing to mend, and the module can go."""
    assert freed_mb() < 10

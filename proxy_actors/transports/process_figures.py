"""What the kernel and the interpreter say of this process.

Reads /proc, which never waits for a disk, and owns nothing.
"""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from proxy_actors.messages.metrics import ProcessFigures

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/self/stat behind the name, proc(5): from the state, which is the third, on.
_THREADS = 20 - 3
_RSS = 24 - 3


def process_figures(log_dropped: int) -> ProcessFigures:
    """Describe this process."""
    fds_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        fds, threads = _open_fds(), int(fields[_THREADS])
        rss_bytes = int(fields[_RSS]) * _PAGE_BYTES
    except OSError:  # there is no descriptor left to look with
        fds, threads = fds_max, threading.active_count()
        rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ProcessFigures(
        rss_bytes=rss_bytes,
        fds=fds,
        threads=threads,
        cpu_s=time.process_time(),
        gc=tuple(generation["collections"] for generation in gc.get_stats()),
        log_dropped=log_dropped,
        memory_bytes_max=_memory_bytes_max(),
        fds_max=fds_max,
    )


@cache
def _memory_bytes_max() -> int:
    """Return the memory of the machine, or what a control group leaves of it."""
    return min(_memory_bounds(), default=0)


def _memory_bounds() -> Iterator[int]:
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemTotal":
            yield int(value.split()[0]) * 1024
    # Within a container the group's own path may not be there, but its root is the group.
    for line in _lines("/proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            root, file = "/sys/fs/cgroup", "memory.max"
        elif controllers == "memory":
            root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        for path in f"{root}{group}/{file}", f"{root}/{file}":
            yield from (int(text) for text in _lines(path) if text.isdecimal())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _open_fds() -> int:
    """Count the open descriptors; Linux from 6.2 on knows without a look at each."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))

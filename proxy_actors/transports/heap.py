"""Has the C library give back to the system what was freed.

What glibc frees it keeps, unless it lies at the very end of its heap; and large answers lie between
small things that stay. So a process grows for hours to a multiple of what it needs. Against that
large pieces are kept out of the heap, each in pages of its own that go when it is freed; and a
thread has the heap trimmed now and then (malloc_trim(3)), which takes a millisecond or two. Owns
that thread. Does nothing where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import threading

TRIM_S = 15.0
# What is larger lies outside of the heap. That is where glibc begins too; but it puts the bound up
# to the largest piece that was ever freed, unless it is told one (mallopt(3), M_MMAP_THRESHOLD).
IN_HEAP_BYTES_MAX = 131_072
_M_MMAP_THRESHOLD = -3


def keep_large_out() -> None:
    """Have pieces of more than IN_HEAP_BYTES_MAX kept out of the heap, from now on."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, IN_HEAP_BYTES_MAX)


class HeapTrimmer:
    """Trims until `close`."""

    def __init__(self, every_s: float = TRIM_S) -> None:
        self._every_s = every_s
        self._over = threading.Event()
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if self._trim is not None:
            # A daemon: it must not keep a process from ending that does not close it.
            threading.Thread(target=self._run, name="heap", daemon=True).start()

    def close(self) -> None:
        """Trim no more."""
        self._over.set()

    def _run(self) -> None:
        assert self._trim is not None
        while not self._over.wait(self._every_s):
            self._trim(0)

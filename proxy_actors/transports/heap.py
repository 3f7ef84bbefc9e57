"""Has the C library give back to the system what was freed.

What glibc frees it keeps, unless it lies at the very end of its heap; and large answers lie between
small things that stay. So a process grows for hours to a multiple of what it needs. A thread of its
own has the heap trimmed now and then (malloc_trim(3)), which takes a millisecond or two. Owns that
thread.
"""

from __future__ import annotations

import ctypes
import threading

TRIM_S = 15.0


class HeapTrimmer:
    """Trims until `close`. Does nothing where the C library is not glibc."""

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

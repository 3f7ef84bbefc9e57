"""Processes on a core of their own, and what they have used of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

START_S_MAX = 30.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pinned:
    """A process, with whatever it starts, on one core; ended with the context.

    Args:
        argv: what to run.
        core: the core's number.
        port: where it must listen before it counts as started.
        without: the script of a descendant that does not count.
    """

    def __init__(self, argv: Sequence[str], core: int, port: int, without: str = "") -> None:
        self._without = without.encode()
        began_s = time.monotonic()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > began_s + START_S_MAX:
                    self.end()
                    raise RuntimeError(f"{argv[0]} did not start") from None
                time.sleep(0.002)
        self.started_s = time.monotonic() - began_s

    def cpu_s(self) -> float:
        """Seconds of CPU that the process and its descendants have used."""
        return sum(_cpu_ticks(pid) for pid in self._pids()) / _TICKS_A_SECOND

    def rss_bytes(self) -> int:
        """Bytes resident, of the process and its descendants."""
        return sum(_rss_pages(pid) for pid in self._pids()) * _PAGE_BYTES

    def kill(self) -> None:
        """Kill the process itself, and none of its descendants."""
        self._process.kill()

    def pause(self) -> None:
        """Have it do nothing any more, as if it hung."""
        self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """Kill the group. Idempotent."""
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            pass
        self._process.wait()

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _pids(self) -> list[int]:
        """The process and what counts of all below it."""
        pids = [self._process.pid]
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, task.read_text().split())
        if not self._without:
            return pids
        return [pid for pid in pids if not _script(pid).endswith(self._without)]


def _script(pid: int) -> bytes:
    return b"".join(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2])


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _rss_pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])

"""What a proxy has: descriptors, processes, actors, greenlets, what is lent. Part O2 of the oracle.

The outside is counted in /proc; the inside is what the proxy writes to its log when USR2 asks it.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_actors.transports.guardian import ProcessTable
from tests.wire.proxy_process import ProxyProcess

QUIESCE_S_MAX = 10.0
LOOK_AGAIN_S = 0.1
DUMP_S_MAX = 10.0

_ACTOR = re.compile(r" actor depth=\d+ name=(\S+) kind=(\w+) .*? detail=(\{.*\})\n")
_PROCESS = re.compile(r" process fds=(\d+) threads=(\d+) rss_bytes=(\d+) greenlets=(\d+) (.*)\n")
# What is lent, waits or is owed; the rest of what actors tell may differ.
_OWED = ("leased", "streaming", "waiting", "connecting", "in_flight", "pending", "sessions")


@dataclass
class Inside:
    """What one dump says.

    Attributes:
        actors: how many there are of each kind.
        details: what each tells of itself, by its name.
        owed: what they say is lent or waits, by actor, where it is not nothing.
    """

    actors: Counter[str]
    details: dict[str, Any]
    owed: dict[str, int]
    greenlets: int
    tasks: str


@dataclass
class Footing:
    """What there is, with nothing going on."""

    fds: int
    processes: int
    zombies: int
    actors: Counter[str]
    owed: dict[str, int]
    greenlets: int

    def differences(self, before: Footing) -> list[str]:
        """What is not as it was. Fewer descriptors are no leak: an idle connection was closed."""
        changed = [
            name
            for name in ("fds", "processes", "zombies", "actors", "owed", "greenlets")
            if getattr(self, name) != getattr(before, name)
        ]
        if self.fds < before.fds:
            changed.remove("fds")
        return [
            f"O2: {name} {getattr(before, name)} before, {getattr(self, name)} after"
            for name in changed
        ]


def inside(proxy: ProxyProcess) -> Inside:
    """Have the proxy say what it has.

    Raises:
        TimeoutError: it did not.
    """
    logged = proxy.logged_bytes
    proxy.signal(signal.SIGUSR2)
    deadline_s = time.monotonic() + DUMP_S_MAX
    while not (process := _PROCESS.search(text := proxy.log(logged))):
        if time.monotonic() > deadline_s:
            raise TimeoutError("the proxy does not say what it has")
        threading.Event().wait(0.01)
    actors: Counter[str] = Counter()
    details: dict[str, Any] = {}
    owed: dict[str, int] = {}
    for name, kind, detail in _ACTOR.findall(text):
        actors[kind] += 1
        details[name] = figures = ast.literal_eval(detail)
        for figure in _OWED:
            if isinstance(figures.get(figure), int) and figures[figure]:
                owed[f"{name} {figure}"] = figures[figure]
    return Inside(actors, details, owed, int(process[4]), process[5])


def footing(proxy: ProxyProcess) -> Footing:
    """Look at everything once."""
    said = inside(proxy)
    table = ProcessTable()
    pids = table.descendants(proxy.pid)
    zombies = sum(table.processes[pid].state == b"Z" for pid in pids if pid in table.processes)
    return Footing(proxy.fds(), len(pids), zombies, said.actors, said.owed, said.greenlets)


def settled(proxy: ProxyProcess, calm_s: float) -> Footing:
    """Look until nothing has changed for so long, and nothing is owed."""
    began_s = calm_from_s = time.monotonic()
    before = footing(proxy)
    while (now_s := time.monotonic()) - began_s < QUIESCE_S_MAX:
        threading.Event().wait(LOOK_AGAIN_S)
        now = footing(proxy)
        if now != before or now.owed:
            calm_from_s = now_s
        elif now_s - calm_from_s >= calm_s:
            break
        before = now
    return before


def leaks(proxy: ProxyProcess, before: Footing) -> list[str]:
    """Wait until all is as it was before; say what is not after QUIESCE_S_MAX."""
    deadline_s = time.monotonic() + QUIESCE_S_MAX
    while told := footing(proxy).differences(before):
        if time.monotonic() > deadline_s:
            return [*told, f"tasks {inside(proxy).tasks[:400]}"]
        threading.Event().wait(LOOK_AGAIN_S)
    return []


def rss_bytes(pid: int) -> int:
    """How much memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """How much of a core a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

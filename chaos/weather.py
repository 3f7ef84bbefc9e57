"""The faults of a soak, one after another at a steady rate, each healed before the next."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable

from chaos.fault_proxy import ANSWER, BlackHole, FaultProxy, Garbage, Latency, Slicer
from chaos.relay import CLOSE, RESET
from chaos.servers import HttpServer
from proxy_actors.transports.guardian import ProcessTable
from tests.wire.proxy_process import SCRIPTED, ProxyProcess

MEAN_PAUSE_S = 3.0


class Weather(threading.Thread):
    """Draws and plays faults until it is stopped.

    Attributes:
        played: how often each.
    """

    def __init__(
        self, proxy: ProxyProcess, servers: list[HttpServer], relays: list[FaultProxy], seed: int
    ) -> None:
        super().__init__(daemon=True)
        self.played: Counter[str] = Counter()
        self._proxy = proxy
        self._servers = servers
        self._relays = relays
        self._chance = random.Random(f"weather {seed}")
        self._over = threading.Event()
        self._faults: list[Callable[[], None]] = [
            self.kill_a_child, self.stop_a_child, self.reset_all, self.close_all, self.refuse,
            self.delay, self.slice, self.black_hole, self.garbage, self.restart_a_server,
        ]  # fmt: skip

    def stop(self) -> None:
        """Let it clear up. Idempotent."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Play."""
        while not self._over.wait(self._chance.expovariate(1 / MEAN_PAUSE_S)):
            fault = self._chance.choice(self._faults)
            fault()
            self.played[fault.__name__.replace("_", " ")] += 1

    # Faults.

    def kill_a_child(self) -> None:
        """By KILL."""
        if children := self._children():
            os.kill(self._chance.choice(children), signal.SIGKILL)

    def stop_a_child(self) -> None:
        """By STOP, for a second; then it is killed."""
        if children := self._children():
            pid = self._chance.choice(children)
            try:
                os.kill(pid, signal.SIGSTOP)
                self._over.wait(1.0)
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # its session has ended

    def reset_all(self) -> None:
        """All connections to a server."""
        self._relay().cut(RESET)

    def close_all(self) -> None:
        """All connections to a server."""
        self._relay().cut(CLOSE)

    def refuse(self) -> None:
        """For half a second, with all connections reset."""
        relay = self._relay()
        relay.refuse()
        relay.cut(RESET)
        self._over.wait(0.5)
        relay.accept()

    def delay(self) -> None:
        """For two seconds."""
        self._poisoned(Latency(seconds=0.1, jitter_s=0.1))

    def slice(self) -> None:
        """Answers come in pieces, for two seconds."""
        self._poisoned(Slicer((ANSWER,), 20, 0.005))

    def black_hole(self) -> None:
        """For two seconds; what was open is cut then."""
        relay = self._relay()
        relay.poison(BlackHole())
        self._over.wait(2.0)
        relay.heal()

    def garbage(self) -> None:
        """In the place of answers, for half a second."""
        relay = self._relay()
        relay.poison(Garbage((ANSWER,)))
        self._over.wait(0.5)
        relay.heal()

    def restart_a_server(self) -> None:
        """By KILL; its sessions are lost."""
        server = self._chance.choice(self._servers)
        server.kill()
        self._over.wait(0.3)
        server.start()

    def _poisoned(self, toxic: Latency | Slicer) -> None:
        relay = self._relay()
        relay.poison(toxic)
        self._over.wait(2.0)
        relay.toxics = ()

    def _relay(self) -> FaultProxy:
        return self._chance.choice(self._relays)

    def _children(self) -> list[int]:
        """The scripted children that there are now."""
        table = ProcessTable()
        script = SCRIPTED[-1].encode()
        found = []
        for pid in table.descendants(self._proxy.pid):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if script in file.read():
                        found.append(pid)
            except OSError:
                pass  # it has ended meanwhile
        return found

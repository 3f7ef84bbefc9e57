"""A stage on which a scenario is played again and again.

The proxy, the servers and the fault proxies of the first play stay, healed, for the next ones; only
clients are new. What the proxy had before the first play it must have again after each.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

from chaos.fault_proxy import FaultProxy
from chaos.servers import HttpServer
from chaos.stage import NotHere, Stage
from tests.wire.proxy_process import ProxyProcess
from tests.wire.waiting import eventually

_LASTING = ("config.toml", "journal", "state")
T = TypeVar("T", HttpServer, FaultProxy)


class Encore(Stage):
    """A stage that can be used once more after `rewind`."""

    def __init__(self, name: str, seed: int, leniency: float = 1.0) -> None:
        super().__init__(name, seed, leniency)
        self._name = name
        self._parties: list[Any] = []
        self._plays = self._next = 0
        self._served: tuple[object, ...] = ()

    def rewind(self) -> None:
        """Heal what is there, and have nobody else there: the next play begins."""
        self._plays += 1
        self._next = 0
        self._clients.clear()
        self._loads.clear()
        self.chance = random.Random(f"{self._name} {self.seed}")  # for settings that are drawn
        for party in self._parties:
            party.restore()
        for path in self.directory.iterdir():
            if not path.name.startswith(_LASTING):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def http_server(self, *words: str, apart: bool = False) -> HttpServer:
        """The server that the first play had at this point."""
        first = super().http_server
        return self._as_before(lambda: first(*words, apart=apart))

    def before(self, address: tuple[str, int]) -> FaultProxy:
        """The fault proxy that the first play had at this point."""
        first = super().before
        return self._as_before(lambda: first(address))

    def serve(self, victim: str, top: str = "", *args: Any, **options: Any) -> ProxyProcess:
        """Start the proxy, or go on with the one that is there; what is drawn now is new."""
        if not self._plays:
            self._served = victim, top
            return super().serve(victim, top, *args, **options)
        if self._served != (victim, top):
            raise NotHere("its settings are others in each play")
        eventually(lambda: self.proxy.page("/health") == 200)
        self.chance.seed(f"{self._name} {self.seed} {self._plays}")
        self.watch()
        return self.proxy

    def _as_before(self, first: Callable[[], T]) -> T:
        if self._next == len(self._parties):
            self._parties.append(first())
        self._next += 1
        party: T = self._parties[self._next - 1]
        return party

    @property
    def rss_before_mb(self) -> float:
        """The proxy's memory before the first fault."""
        return self._rss_before / 1e6

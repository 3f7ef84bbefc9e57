"""One life of the proxy in the simulated world, as `service.py` runs it, and what is left of it.

The tree is the one that `app.py` builds from a configuration. Whatever it keeps books in is noted
as it is made, so that the books of all upstreams can be looked at, of whatever kind they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from proxy_actors.actors.base import Actor
from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.sse_session import SseSession
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stdio_shared import StdioShared, shared_name
from proxy_actors.app import App
from proxy_actors.config.model import Config
from proxy_actors.gateway.http_forward import HttpForwarder
from proxy_actors.gateway.sse_pipes import SseServer
from proxy_actors.messages.lifecycle import ChildStopped, StopReason
from proxy_actors.messages.supervision import SupervisorReady
from proxy_actors.policy.session_ledger import Phase
from proxy_actors.world.sim_store import SimDisk, SimStore
from proxy_actors.world.sim_world import SimWorld
from tests.plane import DATE

K = TypeVar("K")
BOOKS = (ConnectionTable, Directory, HttpForwarder, SseServer)


@contextmanager
def noted(*kinds: type) -> Iterator[list[Any]]:
    """List the objects of these kinds, and of kinds of these, that are made meanwhile."""
    made: list[Any] = []
    kept = [(kind, vars(kind)["__init__"]) for kind in kinds]

    def noting(original: Any) -> Any:
        def init(own: Any, *arguments: Any, **named: Any) -> None:
            made.append(own)
            original(own, *arguments, **named)

        return init

    try:
        for kind, original in kept:
            setattr(kind, "__init__", noting(original))
        yield made
    finally:
        for kind, original in kept:
            setattr(kind, "__init__", original)


class Tree:
    """One life of the proxy.

    Attributes:
        ready: whether everything has started once.
        ended: how it has ended; None while it lives.
        drained: whether the drain is complete.
        tables: the connections of each upstream that has some.
    """

    def __init__(self, world: SimWorld, config: Config, disk: SimDisk) -> None:
        self.world = world
        self.store = SimStore(world, disk)
        with noted(*BOOKS) as books:
            self.app = App(world, config, self.store, lambda: DATE, {})
        self._books = books
        self.tables = self.books(ConnectionTable)
        self.ready = self.drained = False
        self.ended: ChildStopped | None = None
        self.app.start(self)

    def tell(self, message: Any) -> bool:
        """Be the root's parent."""
        match message:
            case SupervisorReady():
                self.ready = True
            case ChildStopped():
                self.ended = message
                # The process ends, and with it its sockets.
                self.app._listener.close()
                self.app.wiring.clients.close_all()
            case _:
                self.drained = self.app.is_drained(message) or self.drained
        return True

    @property
    def ended_well(self) -> bool:
        """Whether it has ended because it was told to."""
        return self.ended is not None and self.ended.reason is StopReason.NORMAL

    def books(self, kind: type[K]) -> list[K]:
        """List the books of a kind."""
        return [x for x in self._books if isinstance(x, kind)]

    def actors(self) -> list[Actor]:
        """List all actors from the root down."""
        found: list[Actor] = []
        todo: list[Actor] = [self.app.root]
        for actor in todo:
            found.append(actor)
            todo += [ref._own for ref in actor.children.values()]
        return found

    def present(self, kind: type[K]) -> list[K]:
        """List the actors of a kind that are up and idle."""
        return [
            x for x in self.actors()
            if isinstance(x, kind) and x._ending is None and x._parked is not None
        ]  # fmt: skip

    def check_pools(self) -> None:
        """Check what holds of pools between any two steps: every connection has one owner."""
        for pool in self.present(ConnectionPool):
            table, gauges = pool._table, pool._policy.gauges()
            lent = [row.connection_id for row in table.leases.values()]
            assert len(set(lent)) == len(lent), "one connection, two leases"
            assert gauges.leased + gauges.streaming == len(lent), "ledger and table differ"
            assert gauges.waiting == len(pool._asks) == len(pool._checkouts), "an asker was lost"
            assert all(x in table.streams for x in lent), "a connection in use was closed"
            assert table.kept.keys() <= table.leases.keys(), "kept, and not lent"

    def leftovers(self) -> dict[str, object]:
        """What is held for exchanges that have ended; nothing of it may stay."""
        wiring = self.app.wiring
        streams = wiring.streams
        actors = self.actors()
        # The child that serves all has a name that stays.
        shared = [shared_name(x.slot) for x in actors if isinstance(x, StdioShared)]
        names = {*shared, *(x.name for x in actors)}
        found: dict[str, object] = {
            "leases": self.lent() - len(self.present(SseSession)),
            "kept": sum(len(x.kept) for x in self.tables),
            "sources": sum(len(x.streams) for x in self.books(HttpForwarder)),
            "sse clients": sum(len(x.clients) for x in self.books(SseServer)),
            "names of nobody": [
                name for x in self.books(Directory) for name in x._slots
                if name not in names
            ],
            "streams": len(streams),
            "open streams": len(streams.books),
            "counts of streams": [x for x in streams.books._counts.items() if x[1]],
            "kinds of streams": [x for x in streams.books.open.items() if x[1]],
            "bytes of rings": streams.budget.held,
            "subscribers": len(wiring.subscribers),
            "bodies": wiring.bodies._held,
            "clients": len(wiring.clients),
            "uses": len(wiring.uses),
            "calls of legacy clients": len(wiring.legacy_calls),
            "notes on sessions": list(self.store.unfinished),
        }
        return {name: held for name, held in found.items() if held}

    def unrest(self) -> list[str]:
        """List what is not at rest in the actors."""
        found = []
        for actor in self.actors():
            own = vars(actor)
            if actor._ending is not None or actor._parked is None:
                found.append(f"{actor.name} is not idle")
            if not actor.actor_inbox.empty() or actor._room:
                found.append(f"{actor.name} has mail")
            if own.get("_asks"):
                found.append(f"{actor.name} has askers")
        for pool in self.present(ConnectionPool):
            gauges = pool._policy.gauges()
            if gauges.leased or gauges.waiting or gauges.opening:
                found.append(f"{pool.name}: {gauges}")
            if len(pool._table.streams) != gauges.idle + gauges.streaming:
                found.append(f"{pool.name} has lost connections: {gauges} {pool._table.streams}")
        return found

    def lent(self) -> int:
        """Count the leases; a session of HTTP+SSE has one for as long as it lives."""
        return sum(len(x.leases) for x in self.tables)

    def connections(self) -> int:
        """Count the connections to servers."""
        return sum(len(x.streams) for x in self.tables)

    def processes(self) -> list[StdioProcess]:
        """List the actors whose process runs."""
        actors = [x for x in self.actors() if isinstance(x, StdioProcess)]
        return [x for x in actors if getattr(x._pipes._child, "running", False)]

    def closed_errors(self) -> int:
        """Count the processes that run and whose stderr has ended."""
        streams: list[Any] = [x._pipes._child.stderr for x in self.processes()]
        return sum(x._in._broken or x._in._eof for x in streams)

    def resident(self) -> Counter[str]:
        """Count the greenlets that the actors have a right to, by the owner's name."""
        return Counter(f"actor {type(x).__name__}" for x in self.actors() if x.resident)

    def check_registry(self) -> None:
        """Check that the registry and its rows agree, and that nothing is unfinished."""
        (registry,) = self.present(SessionRegistry)
        entries = registry._policy._ledger.entries
        rows = {row.session.key for row in self.store.rows()}
        assert entries.keys() == rows, f"registry {entries.keys()}, store {rows}"
        states = [(x.phase, x.uses) for x in entries.values()]
        assert all(phase is Phase.LIVE and not uses for phase, uses in states), states

    def keys(self) -> set[str]:
        """The keys of all sessions."""
        return {row.session.key for row in self.store.rows()}

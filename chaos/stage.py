"""What a scenario plays on: the proxy as a process, its servers, clients, load, and who watches.

`serve` starts it all, warms it up and takes the footing; then the watch begins. What a scenario
starts it starts through the stage, which ends it. `close` heals nothing: that is the scenario's.
"""

from __future__ import annotations

import http.client
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeVar

from chaos.fault_proxy import FaultProxy
from chaos.footing import Footing, leaks, rss_bytes, settled
from chaos.ledger import ANSWERED, SECRET, Call, Ledger, p99_ms
from chaos.load import VICTIM, Load
from chaos.servers import DEMO, HttpServer
from chaos.watch import Watch
from tests.wire.proxy_process import ProxyProcess, running
from tests.wire.session_client import Answer, Session, SessionClient

T = TypeVar("T")

BASELINE_CALLS = 25
LOOK_AGAIN_S = 0.02
GROWTH_MB_MAX = 40.0


class Unmet(Exception):
    """A pass criterion that does not hold; the text says which."""


class NotHere(Exception):
    """A scenario that this machine cannot play; the text says why."""


class Underway(threading.Thread):
    """A call that is being made."""

    def __init__(self, make: Callable[[], Call]) -> None:
        super().__init__(daemon=True)
        self._make = make
        self._row: Call | None = None

    def run(self) -> None:
        """Make it."""
        self._row = self._make()

    def row(self) -> Call:
        """Wait for its end."""
        self.join(60.0)
        if self._row is None:
            raise Unmet("a call has had no end for a minute")
        return self._row


class Stage:
    """One scenario's. A context manager.

    Args:
        name: the scenario's.
        seed: of all that is drawn.
        leniency: what bounds on times are multiplied by.

    Attributes:
        chance: to draw from.
        directory: for files; it goes with the stage.
        journal: what the victim has executed.
        figures: what the table shows of the run.
        proxy: the one that serves, once it does.
        deadline_s: a call's.
        isolated: whether the bystander must not notice.
        controlled: whether the probes must be answered.
        footed: whether there is a footing to come back to.
        suspended_s: how long the proxy could do nothing for its deadlines.
        settling_s: how long nothing must change before the footing is taken.
        errors: what the proxy logs as errors.
        perhaps: what it may log as errors besides.
    """

    def __init__(self, name: str, seed: int, leniency: float = 1.0) -> None:
        self._stack = ExitStack()
        self._leniency = leniency
        self.seed = seed
        self.chance = random.Random(f"{name} {seed}")
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.journal = self.directory / "journal"
        self._journals = [self.journal]
        self.ledger = Ledger()
        self.figures: dict[str, object] = {}
        self.deadline_s = 5.0
        self.isolated = self.controlled = self.footed = True
        self.suspended_s = 0.0
        self.settling_s = 0.4
        self.errors: set[str] = set()
        self.perhaps: set[str] = set()
        self._clients: list[SessionClient] = []
        self._loads: list[Load] = []
        self._relays: list[FaultProxy] = []
        self._watch: Watch | None = None
        self._before: Footing | None = None
        self._rss_before = 0
        self._proxy: ProxyProcess | None = None
        self._words: tuple[str, ...] = ()
        self._running: Mapping[str, object] = {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The parties.

    @property
    def proxy(self) -> ProxyProcess:
        """The proxy that serves."""
        assert self._proxy is not None
        return self._proxy

    def http_server(self, *words: str, apart: bool = False) -> HttpServer:
        """Start a server over HTTP; `apart` gives it a journal of its own."""
        if apart:
            self._journals.append(self.directory / f"journal-{len(self._journals)}")
        journal = self._journals[-1] if apart else self.journal
        return self._stack.enter_context(HttpServer(journal, *words))

    def executed(self) -> list[int]:
        """How many calls each server with a journal of its own has executed."""
        return [
            len(journal.read_text().split()) if journal.exists() else 0
            for journal in self._journals[1:]
        ]

    def enter(self, part: AbstractContextManager[T]) -> T:
        """Have something end with the stage."""
        return self._stack.enter_context(part)

    def before(self, address: tuple[str, int]) -> FaultProxy:
        """Put a fault proxy before an address."""
        proxy = FaultProxy(address, self.seed)
        self._stack.enter_context(proxy)
        self._relays.append(proxy)
        return proxy

    def serve(
        self,
        victim: str,
        top: str = "",
        settings: Mapping[str, object] = {},
        env: Mapping[str, str] = {},
        warm: bool = True,
        words: tuple[str, ...] = (),
        stderr: int | None = None,
        module: str = "",
        listening: socket.socket | None = None,
    ) -> ProxyProcess:
        """Start the proxy before the victim and a bystander; begin to watch.

        Args:
            victim: its table, without the head.
            top: what stands first in the file.
            settings: see `proxy_process`.
            env: added to the environment.
            warm: whether the victim can be called before the fault.
            words: further ones on the command line.
            stderr: takes the log.
            module: is imported into the proxy first.
            listening: the socket that it takes over.
        """
        file = self.directory / "config.toml"
        bystander = ", ".join(f'"{word}"' for word in DEMO)
        file.write_text(
            f"{top}\n[streams]\nage-s-max = 1\n[upstreams.victim]\n"
            f"call-timeout-s = {self.deadline_s}\n{victim}\n"
            f'[upstreams.bystander]\ncommand = [{bystander}]\nstdio = "shared"\n'
        )
        self._words = ("--config", str(file), *words)
        self._running = {
            "settings": settings, "env": env, "stderr": stderr, "module": module,
            "listening": listening,
        }
        self._start("127.0.0.1:0")
        if warm:
            self._warm_up()
        baseline = self._baseline()
        if self.footed:
            self._before = settled(self.proxy, self.settling_s)
        self._rss_before = rss_bytes(self.proxy.pid)
        self.watch(baseline)
        return self.proxy

    def restart(self) -> ProxyProcess:
        """Start another proxy, where the one was that has ended."""
        address = self.proxy.address
        self._start("{}:{}".format(*address))
        return self.proxy

    def watch(self, baseline_ms: float = 0.0) -> None:
        """Begin to watch, or begin anew."""
        self.unwatch()
        self._watch = Watch(self.ledger, self.proxy.address, baseline_ms, self._leniency)

    def unwatch(self) -> None:
        """Watch no more: the proxy is to end."""
        if self._watch is not None:
            self._watch.stop()

    # Clients.

    def client(self) -> SessionClient:
        """Another client."""
        return self.client_with({})

    def client_with(self, fields: Mapping[str, str]) -> SessionClient:
        """Another client, which sends these fields with every request."""
        client = SessionClient(self.proxy.address, fields)
        self._clients.append(client)
        return client

    def session(self, path: str = VICTIM) -> Session:
        """A session of a client of its own."""
        return self.client().session(path=path)

    def initialize(self, path: str = VICTIM) -> Answer:
        """Try to open a session."""
        client = self.client()
        answer = client.begin_session(path=path).answer()
        if answer.status == 200:
            client.adopt(answer, path)
        return answer

    def known_session(self, id: str) -> Session:
        """A session that was opened before, for another client."""
        return Session(self.client(), id, VICTIM)

    def call(self, session: Session, tool: str = "echo", **arguments: object) -> Call:
        """Call the victim."""
        return self.ledger.call(session, "victim", tool, **arguments)

    def begin(self, session: Session, tool: str = "echo", **arguments: object) -> Underway:
        """Call the victim, and go on meanwhile."""
        own = Session(self.client(), session.id, session.path)
        call = Underway(lambda: self.call(own, tool, **arguments))
        call.start()
        return call

    def load(self, clients: int = 2, pause_s: float = 0.01, **arguments: object) -> Load:
        """Have some clients call the victim again and again."""
        load = Load(self, clients, pause_s, arguments)
        self._loads.append(load)
        self.until(lambda: len(load.rows) >= clients, 10.0, "load")
        return load

    def recovered(self, within_s: float, session: Session | None = None) -> float:
        """Call until a call succeeds; return how long it took, in a new session if need be.

        Raises:
            Unmet: none did.
        """
        began_s = time.monotonic()
        while True:
            try:
                session = session or self.session()
                row = self.call(session)
                if row.outcome == ANSWERED:
                    break
                if row.status == 404:
                    session = None
            except (AssertionError, OSError, http.client.HTTPException):
                session = None  # none could be opened
            took_s = time.monotonic() - began_s
            if took_s > self.widened_s(within_s):
                raise Unmet(f"not recovered in {took_s:.1f} s, of {within_s:g} s")
            threading.Event().wait(LOOK_AGAIN_S)
        took_s = time.monotonic() - began_s
        self.figures["recovered ms"] = round(took_s * 1e3)
        return took_s

    # Judging.

    def widened_s(self, bound_s: float) -> float:
        """A bound on a time, on a machine as busy as this one is."""
        return bound_s if self._watch is None else self._watch.noise.widen(bound_s * 1e3) / 1e3

    def require(self, holds: object, criterion: str) -> None:
        """Judge.

        Raises:
            Unmet: it does not hold.
        """
        if not holds:
            raise Unmet(criterion)

    def within(self, bound_s: float, took_s: float, what: str) -> None:
        """Judge a time, and show it."""
        self.figures[f"{what} ms"] = round(took_s * 1e3)
        self.require(took_s <= self.widened_s(bound_s), f"{what} took {took_s:.2f} s")

    def until(self, condition: Callable[[], object], within_s: float, what: str) -> float:
        """Look until something holds; return how long it took.

        Raises:
            Unmet: it did not in time.
        """
        began_s = time.monotonic()
        while not condition():
            took_s = time.monotonic() - began_s
            if took_s > self.widened_s(within_s):
                raise Unmet(f"{what}: not within {within_s:g} s")
            threading.Event().wait(LOOK_AGAIN_S)
        return time.monotonic() - began_s

    def ends(self, row: Call, reasons: set[str], executed: str | None = None) -> None:
        """Judge how a call has ended: ANSWERED, or a reason of the contract."""
        self.require(row.ended in reasons, f"a call ended with {row.ended}: {row}")
        if executed is not None and row.outcome == "error":
            self.require(row.executed == executed, f"a call says executed: {row.executed}")

    def stop_proxy(self) -> None:
        """Have the proxy end as it should."""
        self.leave()
        self.proxy.stop()

    def leave(self) -> None:
        """Heal the network; end all load, sessions and connections, and the watch. Idempotent."""
        for relay in self._relays:
            relay.toxics = ()
        for load in self._loads:
            load.stop()
        self.unwatch()
        for client in self._clients:
            try:
                client.end_sessions()
            except (OSError, http.client.HTTPException):
                client.leave()

    def settle(self) -> list[str]:
        """End all load and sessions, quiesce and compare; return what is wrong."""
        self.leave()
        self.proxy.errors |= {name for name in self.perhaps if f" {name} " in self.proxy.log()}
        late_s = self._leniency * (self.deadline_s + self.suspended_s)
        told = self.ledger.faults(self._journals, late_s)
        if SECRET in self.proxy.log():
            told.append("O5: the log tells a secret")
        watch = self._watch
        if watch is not None:
            told += watch.faults(self.isolated, self.controlled)
            self.figures["bystander p99 ms"] = round(p99_ms(watch.calls))
            self.figures["probe ms"] = round(watch.probes.worst_ms)
            self.figures["noise ms"] = round(watch.noise.worst_ms)
        tally = self.ledger.tally("victim")
        self.figures["calls"] = " ".join(f"{n} {how}" for how, n in sorted(tally.items()))
        if self.proxy.lives and self._before is not None:
            told += leaks(self.proxy, self._before)
            grown = (rss_bytes(self.proxy.pid) - self._rss_before) / 1e6
            self.figures["rss"] = f"{grown:+.1f} MB"
            if grown > GROWTH_MB_MAX:
                told.append(f"O2: memory grew by {grown:.0f} MB")
        return told

    def _start(self, listen: str) -> None:
        proxy = running(*self._words, listen=listen, **self._running)  # type: ignore[arg-type]
        self._proxy = self._stack.enter_context(proxy)
        self.proxy.errors = self.errors

    def _warm_up(self) -> None:
        client = self.client()
        session = client.session(path=VICTIM)
        for _ in range(5):
            self.ends(self.call(session), {ANSWERED})
        client.end_sessions()

    def _baseline(self) -> float:
        client = self.client()
        session = client.session(path="/mcp/bystander")
        rows = []
        for n in range(BASELINE_CALLS):
            row = self.ledger.begin("bystander")
            answer = session.begin("echo", row.n, message=f"{row.n} {n}").answer()
            self.ledger.end(row, answer)
            rows.append(row)
        client.end_sessions()
        return p99_ms(rows)

    def kill_proxy(self) -> None:
        """End the proxy by KILL."""
        self.unwatch()
        self.proxy.signal(signal.SIGKILL)
        self.proxy.wait()

"""A real proxy that is started and stopped under load, again and again: nothing leaks or hangs.

RELIABILITY 1.9; faults P1, P19. Each round has callers, a listener, a client that idles and a
process; TERM comes in the midst of it all. Every request is answered once, or refused truthfully,
or never taken; every listener is told when to come back; sessions are flushed; the process ends
with 0 and with everybody below it, and the next round begins on the same port with the same
state-dir. `make stops` has more rounds.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from proxy_actors.storage.open import FILE_NAME
from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.guardian_peer import wait_gone, watched
from tests.wire.http_client import Wire
from tests.wire.proxy_process import SCRIPTED, ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

ROUNDS = int(os.environ.get("STOPS", 40))
CALLERS = 3
# So many calls have been answered when TERM comes, now more and now fewer.
ANSWERED = (3, 7, 20, 1)
STEPS = (["json"], ["pause 0.01", "json"], ["sse", "note", "pause 0.01", "note", "answer", "end"])


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream(slow=True) as upstream:
        yield upstream


class Load:
    """The clients of one round.

    Attributes:
        told: what became of the calls.
        answered: set when so many calls have been answered.
    """

    def __init__(
        self, proxy: ProxyProcess, session: str, numbers: Iterator[int], answered_min: int
    ) -> None:
        self.told: dict[int, str] = {}
        self.errors: list[BaseException] = []
        self.answered = threading.Event()
        self._proxy = proxy
        self._session = session
        self._numbers = numbers
        self._answered_min = answered_min
        acts = [self._call] * CALLERS + [self._listen, self._idle]
        self._threads = [threading.Thread(target=self._run, args=(act,)) for act in acts]
        self._ready = threading.Barrier(len(acts) + 1)

    def begin(self) -> None:
        """Return when all clients are at work, and some calls have been answered."""
        for thread in self._threads:
            thread.start()
        self._ready.wait(PATIENCE_S)
        assert self.answered.wait(PATIENCE_S)

    def end(self) -> None:
        """Return when all have found out that the proxy is no more."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client hangs"
        assert not self.errors, self.errors

    def _run(self, act: object) -> None:
        try:
            assert callable(act)
            act()
        except BaseException as error:
            self.errors.append(error)

    def _call(self) -> None:
        """Call on connections that are kept for some calls, until nobody listens any more."""
        self._ready.wait(PATIENCE_S)
        for steps in itertools.cycle(STEPS):
            try:
                wire = self._proxy.wire()
            except ConnectionError:
                return
            with wire:
                for _ in range(3):
                    n = next(self._numbers)
                    self.told[n] = told = ask(wire, n, steps, self._session)
                    if sum(said == "result" for said in self.told.values()) >= self._answered_min:
                        self.answered.set()
                    if told != "result":
                        break

    def _listen(self) -> None:
        """Read the standalone stream: it ends in good order, with the time to come back."""
        with self._proxy.wire() as wire:
            wire.send(request(None, "GET", self._session, path="/mcp/web"))
            answer = wire.head()
            assert answer.status == 200
            self._ready.wait(PATIENCE_S)
            while wire.more(answer):
                pass
            assert answer.complete, "a listener was cut off"
            assert answer.body.count(b"retry: 1000\n") == 2, "nobody said when to come back"

    def _idle(self) -> None:
        """Open a session that has a process, and do nothing more."""
        with self._proxy.wire() as wire:
            answer = wire.ask(request(initialize(), path="/mcp/own"))
            assert answer.status == 200
            self._ready.wait(PATIENCE_S)
            assert wire.has_ended


def ask(wire: Wire, n: int, steps: list[str], session: str) -> str:
    """Call, and say what the client was told."""
    try:
        answer = wire.ask(request(call(n, *steps), session=session, path="/mcp/web"))
    except ConnectionError:
        answer = Answer()
    if answer.status is None:
        return "unanswered"
    assert answer.complete, f"{n} was cut: {answer}"
    if "result" in answer.message:
        assert answer.message["result"]["content"][0]["text"] == f"n={n}"
        return "result"
    assert answer.message["id"] == n, answer
    assert answer.error["data"]["reason"] == "draining", answer
    return "draining"


def test_nothing_is_left_of_many_starts_and_stops_under_load(
    upstream: SocketUpstream, tmp_path: Path
) -> None:
    """P1; nothing is executed that was refused, nothing twice, and no session is lost."""
    state, file = tmp_path / "state", tmp_path / "config.toml"
    file.write_text(f"""
        state-dir = "{state}"
        [upstreams.web]
        url = "{upstream.url}"
        [upstreams.own]
        command = {list(SCRIPTED)}
    """)
    numbers, listen, session = itertools.count(1), "127.0.0.1:0", ""
    seen: Counter[str] = Counter()
    for nth in range(ROUNDS):
        with running("--config", str(file), listen=listen) as proxy:
            listen = f"127.0.0.1:{proxy.address[1]}"
            session = session or proxy.session_id()
            load = Load(proxy, session, numbers, ANSWERED[nth % len(ANSWERED)])
            load.begin()
            with watched([proxy.pid, *proxy.descendants()]) as pidfds:
                proxy.signal(SIGTERM)
                assert proxy.wait() == 0, proxy.log()
                wait_gone(*pidfds)
            load.end()
        for n, told in load.told.items():
            seen[told] += 1
            assert upstream.server.executions[n] == (told == "result"), (n, told)
        assert [path.name for path in state.iterdir()] == [FILE_NAME]
    assert upstream.server.deleted == []
    assert len(upstream.server.sessions) == 1, "a session was lost with a stop"
    assert seen["result"] > ROUNDS
    assert seen["unanswered"] <= CALLERS * ROUNDS, "more than one for each connection"
    print(seen)


def test_crash_loop_under_load_ends_the_process_and_all_below_it() -> None:
    """P19: the registry crashes over every session; when its restarts are spent, so is the root."""
    settings = {"proxy_actors.policy.session_ledger.hash_of_principal": {"nonsense": True}}
    with running("--", *SCRIPTED, settings=settings) as proxy:
        answers: list[Answer] = []

        def client() -> None:
            """Shake hands until nobody listens any more."""
            while True:
                try:
                    with proxy.wire() as wire:
                        answers.append(wire.ask(request(initialize())))
                except ConnectionError:
                    return

        eventually(lambda: len(proxy.descendants()) > 1)
        threads = [threading.Thread(target=client) for _ in range(CALLERS)]
        with watched([proxy.pid, *proxy.descendants()]) as pidfds:
            for thread in threads:
                thread.start()
            assert proxy.wait() == 1, proxy.log()
            wait_gone(*pidfds)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client hangs"
        assert "proxy-actors: EscalatedError: registry was given up" in proxy.log()
        refused = [answer for answer in answers if answer.status is not None]
        assert len(refused) > 5, "it gave up before its restarts were spent"
        assert all(answer.complete and "error" in answer.message for answer in refused)
        proxy.errors = {"actor_crashed"}

"""Seeded kills of sockets, exchanges and actors under load, on real sockets: nothing is left over.

RELIABILITY 6.1, O1 and O2; faults N4, N5, C1, P15. Every kind of order is tried in the simulator;
here are real descriptors, real resets, and threads that know nothing of turns.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
from collections import Counter

import pytest

from proxy_actors.messages.base import Message
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.policy.supervision import Budget
from tests.sim.virtual import call, request
from tests.wire.http_client import Wire
from tests.wire.plane_thread import PlaneThread
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

CLIENTS = 8
ROUNDS = 125
# What a call may be told while others kill what it depends on; never that its session is gone.
STATUSES = {200, 409, 500, 502, 503}
GOOD = (["json"], ["pause 0.01", "json"], ["chunked 5"], ["sse", "answer", "end"],
        ["sse", "note", "pause 0.01", "note", "answer", "end"])
BROKEN = (["close"], ["reset"], ["garbage"], ["head", "half", "reset"], ["sse", "note", "reset"],
          ["sse", "half-event", "close"], ["json", "close"], ["json", "reset"], ["json", "extra"])


class Poison(Message, frozen=True):
    """No actor understands it."""


class Client:
    """One client that calls and kills, by a seed of its own."""

    def __init__(
        self, proxy: PlaneThread, sessions: list[str], numbers: itertools.count[int], seed: int
    ) -> None:
        self.did: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._proxy = proxy
        self._sessions = sessions
        self._numbers = numbers
        self._chance = random.Random(seed)

    def run(self) -> None:
        acts = [self.call, self.call_that_breaks, self.leave, self.cut, self.stand, self.kill]
        try:
            for _ in range(ROUNDS):
                act = self._chance.choices(acts, weights=[4, 3, 4, 2, 1, 1])[0]
                act()
                self.did[act.__name__] += 1
        except BaseException as error:
            self.errors.append(error)

    def call(self, scripts: tuple[list[str], ...] = GOOD) -> None:
        """Call, and check whose answer it is."""
        n, data = self._request(scripts)
        with self._proxy.wire() as wire:
            answer = wire.ask(data)
        # Without an answer its connection was closed: the listener's actor does that as it stops.
        if answer.status is not None:
            assert answer.status in STATUSES
            assert not answer.complete or answer.message["id"] in (n, None)
            if answer.complete and "result" in answer.message:
                assert answer.message["result"]["content"][0]["text"] == f"n={n}"

    def call_that_breaks(self) -> None:
        """Call an upstream that does not keep to the rules."""
        self.call(BROKEN)

    def leave(self) -> None:
        """Call, and leave at some point."""
        _, data = self._request(GOOD + BROKEN)
        with self._proxy.wire() as wire:
            wire.send(data)
            if self._chance.random() < 0.3:
                wire.socket.recv(self._chance.randrange(1, 100))
            self._leave(wire)

    def cut(self) -> None:
        """Leave in the middle of a request."""
        _, data = self._request(GOOD)
        with self._proxy.wire() as wire:
            wire.send(data[: self._chance.randrange(len(data))])
            self._leave(wire)

    def stand(self) -> None:
        """Open a standalone stream, and leave."""
        with self._proxy.wire() as wire:
            wire.send(request(None, "GET", self._chance.choice(self._sessions)))
            assert wire.head().status in STATUSES
            self._leave(wire)

    def kill(self) -> None:
        """Crash an actor, of the streams one as often as each of the others."""
        plane = self._proxy.plane
        slots = [plane.pool, plane.upstream, plane.registry]
        streams = list(plane.streams._slots.values())
        if streams:
            slots.append(self._chance.choice(streams))
        self._proxy.tell(self._chance.choice(slots), Poison())

    def _request(self, scripts: tuple[list[str], ...]) -> tuple[int, bytes]:
        n = next(self._numbers)
        body = call(n, *self._chance.choice(scripts))
        return n, request(body, session=self._chance.choice(self._sessions))

    def _leave(self, wire: Wire) -> None:
        self._chance.choice([Wire.close, Wire.reset])(wire)


def test_nothing_is_left_of_a_thousand_kills(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    before = len(os.listdir("/proc/self/fd"))
    budget = Budget(restarts_max=1000, period_s=1.0)
    with SocketUpstream(slow=True) as upstream, PlaneThread(
        upstream.url, budget=budget, streams=StreamLimits(age_s_max=1.0)
    ) as proxy:
        sessions = [proxy.session() for _ in range(4)]
        numbers = itertools.count(1)
        clients = [Client(proxy, sessions, numbers, seed) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10 * PATIENCE_S)
        assert not [error for client in clients for error in client.errors]
        eventually(lambda: proxy.plane.leftovers() == {})
        with proxy.wire() as wire:
            assert wire.ask(request(call(0), session=sessions[0])).status == 200
        executions = {n: count for n, count in upstream.server.executions.items() if n is not None}
        assert set(executions.values()) == {1}
        did = sum((client.did for client in clients), Counter[str]())
        assert set(did) == {"call", "call_that_breaks", "leave", "cut", "stand", "kill"}
        assert sum(did.values()) - did["call"] > 0.7 * CLIENTS * ROUNDS
        plane = proxy.plane
        assert all(slot.starts > 5 for slot in (plane.pool, plane.upstream, plane.registry))
    assert len(os.listdir("/proc/self/fd")) == before

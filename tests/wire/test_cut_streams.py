"""Numbered event streams whose connections are cut again and again: every number comes once.

MCP-S-15, S-16, S-21; fault C1. A plain client of server-sent events (`sseclient-py` over
`requests`) that comes back with Last-Event-ID, behind a proxy that cuts, in front of the data plane
on real sockets. The second half plants defects, each of which has to show.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import requests
import sseclient

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.gateway import relay
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.stream_limits import StreamLimits
from tests.defects import Defect, planted
from tests.scripted_server import VERSION
from tests.scripted_streams import Resumption
from tests.sim.virtual import call, initialize, note

from .cutting_proxy import CLOSE, RESET, CuttingProxy
from .plane_thread import PlaneThread
from .socket_upstream import SocketUpstream

CUTS = int(os.environ.get("CUTS", "250"))
CUTS_FOR_A_DEFECT = 80
CALLS = 50
# How long the client waits for an event; a stall is over then.
PATIENCE_S = 0.3
# Connections in a row that may bring nothing.
FRUITLESS_MAX = 40
NUMBERS_OF_A_CALL = 150
# What brings a client its first id: without one there is nothing to come back with.
FIRST_ID_BYTES = 1000
FIELDS = {"Accept": "application/json, text/event-stream"}
# Where connections are cut; and without a proxy between.
FRONT, BEHIND, BOTH, BARE = "in front", "behind", "both", "bare"
AHEAD_MAX = 12


class Behind(AssertionError):
    """A number is missing, or came again."""


class PlainClient:
    """Reads one stream over as many connections as it takes."""

    def __init__(self, url: str, session: str) -> None:
        self._url = url
        self._fields = {**FIELDS, "Mcp-Session-Id": session, "MCP-Protocol-Version": VERSION}
        self.last_id: str | None = None

    def prime(self) -> None:
        """Begin with the standalone stream, and take an id to come back with."""
        answer = self._connect(None)
        self.last_id = next(answer.events()).id
        answer.close()

    def messages(self, body: Any = None) -> Iterator[Any]:
        """Yield the messages of the standalone stream, or of the answer to `body`."""
        fruitless = 0
        while fruitless < FRUITLESS_MAX:
            fruitless += 1
            try:
                for event in self._connect(body).events():
                    if event.id:
                        self.last_id = event.id
                    if event.data:
                        fruitless = 0
                        yield json.loads(event.data)
            except requests.RequestException:
                pass
        raise Behind("nothing comes any more")

    def _connect(self, body: Any) -> sseclient.SSEClient:
        fields = dict(self._fields)
        if self.last_id is not None:
            fields["Last-Event-ID"] = self.last_id
        method = "GET" if body is None or self.last_id is not None else "POST"
        answer = requests.request(
            method, self._url, headers=fields, json=body if method == "POST" else None,
            stream=True, timeout=PATIENCE_S,
        )  # fmt: skip
        if answer.status_code != 200:
            answer.close()
            answer.raise_for_status()
        return sseclient.SSEClient(answer)


class Way:
    """The way from a client to a server and back, with one or two that cut on it.

    Attributes:
        url: where it begins.
        session: the client's.
    """

    def __init__(
        self, upstream: SocketUpstream, cutters: Sequence[CuttingProxy], url: str, session: str
    ) -> None:
        self.upstream = upstream
        self.url = url
        self.session = session
        self._cutters = cutters

    @property
    def cuts(self) -> Counter[tuple[str, str]]:
        """How many there have been, by way and direction."""
        return sum((Counter(cutter.cuts) for cutter in self._cutters), Counter())

    @property
    def fewest(self) -> int:
        """How many there have been where there have been the fewest."""
        return min(cutter.total for cutter in self._cutters)

    def calm(self, least_bytes: float) -> None:
        """Have exchanges that begin now carry so much at least."""
        for cutter in self._cutters:
            cutter.calm = least_bytes == math.inf
            cutter.least_bytes = 0 if cutter.calm else int(least_bytes)


@contextmanager
def way(where: str, seed: int) -> Iterator[Way]:
    """Set up a server, the data plane unless there is to be none, and what cuts."""
    with ExitStack() as stack:
        resumption = None if where == FRONT else Resumption()
        upstream = stack.enter_context(SocketUpstream(resumption=resumption))
        address, cutters = ("127.0.0.1", upstream.port), []
        if where != FRONT:
            behind = stack.enter_context(CuttingProxy(address, seed))
            behind.calm = True  # while the session is opened
            cutters.append(behind)
            address = behind.address
        if where != BARE:
            proxy = stack.enter_context(PlaneThread(url_of(address)))
            stack.callback(proxy.rest)
            address = proxy.address
        session = open_session(url_of(address))
        if where in (FRONT, BOTH):
            cutters.append(stack.enter_context(CuttingProxy(address, seed)))
            address = cutters[-1].address
        yield Way(upstream, cutters, url_of(address), session)


def open_session(url: str) -> str:
    """Open one, over a connection that is closed afterwards."""
    fields = {**FIELDS, "Connection": "close"}
    return requests.post(url, json=initialize(), headers=fields).headers["Mcp-Session-Id"]


def url_of(address: tuple[str, int]) -> str:
    host, port = address
    return f"http://{host}:{port}/mcp"


def follow_standalone(way: Way, cuts: int, seed: int) -> None:
    """Number what a server says, a few ahead of what the client has, until enough was cut."""
    chance = random.Random(seed)
    client = PlainClient(way.url, way.session)
    way.calm(FIRST_ID_BYTES)
    client.prime()
    (session,) = way.upstream.server.sessions.values()
    messages = client.messages()
    said = expected = 0
    while way.fewest < cuts or expected < said:
        way.calm(math.inf if way.fewest >= cuts else 0)
        while said <= expected or (way.fewest < cuts and said - expected < AHEAD_MAX):
            assert session.standalone is not None
            session.standalone.put(note("n", number=said))
            said += 1
            if chance.random() < 0.3:
                break
        got = next(messages)["params"]["number"]
        if got != expected:
            raise Behind(f"{got} came in place of {expected}")
        expected += 1
    messages.close()


def follow_calls(way: Way, cuts: int, seed: int) -> None:
    """Call until enough was cut: each call is executed once, and answered with all its numbers."""
    chance = random.Random(seed)
    n = 0
    while way.fewest < cuts:
        n += 1
        numbers = chance.randrange(1, NUMBERS_OF_A_CALL)
        events = [f"event {json.dumps(note('n', number=x))}" for x in range(numbers)]
        client = PlainClient(way.url, way.session)
        way.calm(FIRST_ID_BYTES)
        messages = client.messages(call(n, "sse", *events, "answer", "end"))
        for expected in range(numbers):
            message = next(messages)
            way.calm(0)
            if message.get("params") != {"number": expected}:
                raise Behind(f"{message} came in place of {expected}")
        answer = next(messages)
        if answer.get("id") != n:
            raise Behind(f"{answer} came in place of the answer")
        messages.close()
        if way.upstream.server.executions[n] != 1:
            raise Behind("a call was not executed once")


FOLLOWED = {"standalone": follow_standalone, "calls": follow_calls}


def run(where: str, kind: str, cuts: int, seed: int) -> Counter[tuple[str, str]]:
    with way(where, seed) as found:
        FOLLOWED[kind](found, cuts, seed)
    return found.cuts


def check(cuts: Counter[tuple[str, str]]) -> None:
    print(dict(cuts))
    ways = {(way, of) for way in (RESET, CLOSE) for of in ("request", "answer")}
    assert ways <= cuts.keys(), cuts


@pytest.mark.parametrize("kind", FOLLOWED)
def test_scripted_server_loses_nothing_itself(kind: str) -> None:
    """Else what is behind the proxy could not be told from what is in it."""
    check(run(BARE, kind, 100, seed=1))


@pytest.mark.parametrize("where", [FRONT])
@pytest.mark.parametrize("kind", FOLLOWED)
def test_every_number_comes_once_and_in_order(kind: str, where: str) -> None:
    """CUTS in the environment says after how many cuts."""
    check(run(where, kind, CUTS, seed=1))


def test_official_client_sees_every_number_once_and_in_order() -> None:
    """Each call is cut once: mcp 2.x comes back from a second cut with the id of the first."""
    chance = random.Random(3)
    limits = ConnectionLimits(requests_max=1)  # a connection for each request: it is cut or not
    # Its reconnections wait for so long.
    streams = StreamLimits(retry_ms=10)
    with (
        SocketUpstream() as upstream,
        PlaneThread(upstream.url, limits, streams=streams) as proxy,
        CuttingProxy(proxy.address, seed=3, ways=(RESET, CLOSE)) as cutter,
    ):
        cutter.allowed = 0
        cutter.least_bytes = 700  # without an id it does not come back
        script = str(Path(__file__).with_name("sdk_stream_client.py"))
        with subprocess.Popen(
            [sys.executable, script, cutter.url], stdin=PIPE, stdout=PIPE, text=True
        ) as client:
            assert client.stdin is not None and client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            for n in range(1, CALLS + 1):
                cutter.allowed = 1
                numbers = list(range(chance.randrange(20, 60)))
                events = [f"event {json.dumps(log(x))}" for x in numbers]
                arguments = {"n": n, "do": ["sse", *events, "answer", "end"]}
                client.stdin.write(json.dumps([arguments, len(numbers)]) + "\n")
                client.stdin.flush()
                told = json.loads(client.stdout.readline())
                assert told == {"numbers": numbers, "text": f"n={n}"}
                assert upstream.server.executions[n] == 1
            client.stdin.close()
        proxy.rest()
    assert cutter.total > CALLS / 2, cutter.cuts


def log(number: int) -> dict[str, object]:
    return note("notifications/message", level="info", data=number)


DEFECTS = [
    Defect("the id does not advance", relay._Writer, "_encoded",
           "self._number += len(messages)", "pass"),
    Defect("ids are those of the next event", relay, "_encode",
           "enumerate(messages, number + 1)", "enumerate(messages, number + 2)"),
    Defect("ids are those of the event before", relay, "_encode",
           "enumerate(messages, number + 1)", "enumerate(messages, number)"),
    Defect("a replay begins one too early", ReplayRing, "since", "number + 1 -", "number -"),
    Defect("a replay begins one too late", ReplayRing, "since", "number + 1 -", "number + 2 -"),
    Defect("who comes back gets the beginning", relay.Reader, "__init__",
           "session.key, after)", "session.key, after and 0)"),
    Defect("who comes back gets what nobody has got", relay.Reader, "__init__",
           "session.key, after)", "session.key, None)"),
    Defect("numbers begin anew with each connection", EventStream, "_perform",
           "m.Subscribed(stream_id(self.name), after)", "m.Subscribed(stream_id(self.name), 0)"),
    Defect("nothing is kept while nobody reads", EventStreamPolicy, "_received",
           "lost = self.keep(event.data, now_s)",
           "lost = self.keep(event.data, now_s) if self._subscriber_id is not None else 0"),
    Defect("the ring keeps one event", ReplayRing, "expire",
           "len(events) > limits.events_max", "True"),
    Defect("what is left is taken twice", Subscriber, "take",
           "messages, self._messages, self._bytes = self._messages, [], 0",
           "messages, self._messages, self._bytes = self._messages, self._messages[-1:]"
           " if self._messages and not self._ended and len(self._messages) > 1 else [], 0"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_shows(defect: Defect) -> None:
    """On one kind of stream at least."""
    with planted(defect), pytest.raises((Behind, requests.HTTPError)):
        for kind in FOLLOWED:
            run(FRONT, kind, CUTS_FOR_A_DEFECT, seed=2)

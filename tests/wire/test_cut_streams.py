"""Numbered event streams whose connections are cut again and again: every number comes once.

MCP-S-15 to S-18, S-21; faults C1, N5, N6. A plain client of server-sent events (`sseclient-py` over
`requests`) that comes back with Last-Event-ID, and the official one; what cuts is between them and
the data plane, or between that and a server whose streams can be resumed, or both, on real sockets.
The last part plants defects, each of which has to show.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import requests
import sseclient

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.gateway import relay
from proxy_actors.gateway.event_writer import EventWriter
from proxy_actors.gateway.http_events import UpstreamEvents
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.gateway.http_streams import HttpStreams
from proxy_actors.gateway.wiring import ConnectionLimits
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.protocol.sse import SseDecoder
from tests.defects import Defect, planted
from tests.scripted_server import VERSION
from tests.scripted_streams import Resumption
from tests.sim.stream_mutants import SENT_AGAIN
from tests.sim.virtual import call, initialize, note

from .cutting_proxy import CLOSE, RESET, WAYS, CuttingProxy
from .plane_thread import PlaneThread
from .socket_upstream import SocketUpstream

CUTS = int(os.environ.get("CUTS", "150"))
CUTS_FOR_A_DEFECT = 80
CALLS = 50
# How long the client waits for an event; a stall is over then.
PATIENCE_S = 0.3
# Connections in a row that may bring nothing.
FRUITLESS_MAX = 20
NUMBERS_OF_A_CALL = 150
FIELDS = {"Accept": "application/json, text/event-stream"}
# Silence is as much of a cut for the proxy as it is for its client.
RECONNECT = ReconnectLimits(0.005, 0.02, FRUITLESS_MAX, PATIENCE_S)
# Where connections are cut; and without a proxy between.
FRONT, BEHIND, BOTH, BARE = "in front", "behind", "both", "bare"
AHEAD_MAX = 12


class Behind(AssertionError):
    """A number is missing, or came again."""


class PlainClient:
    """Reads one stream over as many connections as it takes. A context manager."""

    def __init__(self, url: str, session: str) -> None:
        self._url = url
        self._fields = {**FIELDS, "Mcp-Session-Id": session, "MCP-Protocol-Version": VERSION}
        self.last_id: str | None = None
        self._answer: requests.Response | None = None

    def __enter__(self) -> PlainClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def prime(self) -> None:
        """Begin with the standalone stream, and take an id to come back with."""
        self.last_id = next(self._connect(None).events()).id

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
        self._leave()
        fields = dict(self._fields)
        if self.last_id is not None:
            fields["Last-Event-ID"] = self.last_id
        method = "GET" if body is None or self.last_id is not None else "POST"
        answer = self._answer = requests.request(
            method, self._url, headers=fields, json=body if method == "POST" else None,
            stream=True, timeout=PATIENCE_S,
        )  # fmt: skip
        answer.raise_for_status()
        return sseclient.SSEClient(answer)

    def _leave(self) -> None:
        if self._answer is not None:
            self._answer.close()


@dataclass(frozen=True)
class Habits:
    """What a client has of its own."""

    ways: Sequence[str] = WAYS
    limits: ConnectionLimits = ConnectionLimits()
    streams: StreamLimits = StreamLimits()


# A connection for each request: it is cut or not. Its reconnections wait for so long.
OFFICIAL = Habits((RESET, CLOSE), ConnectionLimits(requests_max=1), StreamLimits(retry_ms=10))


@dataclass
class Way:
    """The way from a client to a server and back, and who cuts on it.

    Attributes:
        url: where it begins.
        session: the plain client's.
    """

    upstream: SocketUpstream
    url: str
    session: str
    behind: CuttingProxy | None
    front: CuttingProxy | None

    @property
    def cutters(self) -> list[CuttingProxy]:
        return [cutter for cutter in (self.behind, self.front) if cutter is not None]

    @property
    def cuts(self) -> Counter[tuple[str, str]]:
        """How many there have been, by way and direction."""
        return sum((Counter(cutter.cuts) for cutter in self.cutters), Counter())

    @property
    def fewest(self) -> int:
        """How many there have been where there have been the fewest."""
        return min(cutter.total for cutter in self.cutters)

    def calm(self) -> None:
        """Leave alone what begins from now on."""
        for cutter in self.cutters:
            cutter.calm = True


@contextmanager
def way(where: str, seed: int, habits: Habits = Habits()) -> Iterator[Way]:
    """Set up a server, the data plane unless there is to be none, and who cuts."""
    front = behind = None
    with ExitStack() as stack:
        # Without ids, what is said while a stream is opened anew is lost: nothing is cut there.
        resumption = None if where == FRONT else Resumption()
        reconnect = ReconnectLimits() if where == FRONT else RECONNECT
        upstream = stack.enter_context(SocketUpstream(resumption=resumption))
        address = ("127.0.0.1", upstream.port)
        if where != FRONT:
            behind = stack.enter_context(CuttingProxy(address, seed, ways=habits.ways))
            address = behind.address
        if where != BARE:
            proxy = stack.enter_context(
                PlaneThread(
                    url_of(address), habits.limits, streams=habits.streams, reconnect=reconnect
                )
            )
            stack.callback(proxy.rest)
            address = proxy.address
        session = open_session(url_of(address))
        if where in (FRONT, BOTH):
            front = stack.enter_context(CuttingProxy(address, seed, ways=habits.ways))
            address = front.address
        yield Way(upstream, url_of(address), session, behind, front)


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
    with PlainClient(way.url, way.session) as client:
        client.prime()
        (session,) = way.upstream.server.sessions.values()
        messages = client.messages()
        said = expected = 0
        while way.fewest < cuts or expected < said:
            if way.fewest >= cuts:
                way.calm()
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


def follow_calls(way: Way, cuts: int, seed: int) -> None:
    """Call until enough was cut: each call is executed once, and answered with all its numbers."""
    chance = random.Random(seed)
    n = 0
    while way.fewest < cuts:
        n += 1
        numbers = chance.randrange(1, NUMBERS_OF_A_CALL)
        events = [f"event {json.dumps(note('n', number=x))}" for x in range(numbers)]
        with PlainClient(way.url, way.session) as client:
            messages = client.messages(call(n, "sse", *events, "answer", "end"))
            for expected in range(numbers):
                message = next(messages)
                if message.get("params") != {"number": expected}:
                    raise Behind(f"{message} came in place of {expected}")
            answer = next(messages)
            if answer.get("id") != n:
                raise Behind(f"{answer} came in place of the answer")
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


@pytest.mark.parametrize("where", [FRONT, BEHIND, BOTH])
@pytest.mark.parametrize("kind", FOLLOWED)
def test_every_number_comes_once_and_in_order(kind: str, where: str) -> None:
    """CUTS in the environment says after how many cuts."""
    check(run(where, kind, CUTS, seed=1))


@pytest.mark.parametrize("where", [FRONT, BEHIND, BOTH])
def test_official_client_sees_every_number_once_and_in_order(where: str) -> None:
    """In front each call is cut once: mcp 2.x comes back from a second cut with the first id."""
    chance = random.Random(3)
    with way(where, 3, OFFICIAL) as found:
        allow(found.front, 0)
        script = str(Path(__file__).with_name("sdk_stream_client.py"))
        with subprocess.Popen(
            [sys.executable, script, found.url], stdin=PIPE, stdout=PIPE, text=True
        ) as client:
            assert client.stdin is not None and client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            for n in range(1, CALLS + 1):
                allow(found.front, 1)
                numbers = list(range(chance.randrange(20, 60)))
                events = [f"event {json.dumps(log(x))}" for x in numbers]
                arguments = {"n": n, "do": ["sse", *events, "answer", "end"]}
                client.stdin.write(json.dumps([arguments, len(numbers)]) + "\n")
                client.stdin.flush()
                told = json.loads(client.stdout.readline())
                assert told == {"numbers": numbers, "text": f"n={n}"}
                assert found.upstream.server.executions[n] == 1
            client.stdin.close()
    assert found.fewest > CALLS / 2, found.cuts


def allow(cutter: CuttingProxy | None, cuts: int) -> None:
    """Allow so many more."""
    if cutter is not None:
        cutter.allowed = cuts


def log(number: int) -> dict[str, object]:
    return note("notifications/message", level="info", data=number)


DEFECTS = [
    Defect("the id does not advance", EventWriter, "_encoded",
           "self._number += len(messages)", "pass"),
    Defect("ids are those of the next event", EventWriter, "_encoded",
           "stream_id, self._number)", "stream_id, self._number + 1)"),
    Defect("ids are those of the event before", EventWriter, "_encoded",
           "stream_id, self._number)", "stream_id, self._number - 1)"),
    Defect("a replay begins one too early", ReplayRing, "since", "number + 1 -", "number -"),
    Defect("a replay begins one too late", ReplayRing, "since", "number + 1 -", "number + 2 -"),
    Defect("who comes back gets the beginning", relay.Reader, "__init__",
           "session.key, after)", "session.key, after and 0)"),
    Defect("who comes back gets what nobody has got", relay.Reader, "__init__",
           "session.key, after)", "session.key, None)"),
    Defect("numbers begin anew with each connection", EventStream, "_perform",
           "m.Subscribed(stream_id(self.name), after)", "m.Subscribed(stream_id(self.name), 0)"),
    Defect("nothing is kept while nobody reads", EventStreamPolicy, "_received",
           "self._ring.append(event.data, now_s)",
           "self.subscriber_id is None or self._ring.append(event.data, now_s)"),
    Defect("the ring keeps one event", ReplayRing, "expire",
           "len(events) > limits.events_max", "True"),
    Defect("what is left is taken twice", Subscriber, "take_unread",
           "messages, self._messages, self._bytes = self._messages, [], 0",
           "messages, self._messages, self._bytes = self._messages, self._messages[-1:]"
           " if self._messages and not self._ended and len(self._messages) > 1 else [], 0"),
]


# Towards the upstream.
DEFECTS_BEHIND = [
    Defect("a connection that brings no event forgets the last id", UpstreamEvents, "__init__",
           "SseDecoder(EVENT_BYTES_MAX, after)", "SseDecoder(EVENT_BYTES_MAX)"),
    Defect("the last id does not advance", SseDecoder, "_dispatch",
           "self.last_event_id = self._id_seen",
           "self.last_event_id = self.last_event_id or self._id_seen"),
    Defect("an id counts before its event is complete", SseDecoder, "_read_line",
           "self._id_seen = self._event_id = value",
           "self._id_seen = self._event_id = self.last_event_id = value"),
    Defect("an event that was cut is forwarded", HttpExchange, "read_messages",
           "if data:\n        events.feed(data)",
           r"events.feed(data + b'\n\n' if events.failure else data)"),
    Defect("streams are opened anew without Last-Event-ID", HttpSource, "reopen_into",
           "self._reopen(self._place())", "self._reopen(b'')"),
    SENT_AGAIN,
    Defect("a head that does not come is waited for", HttpStreams, "open_anew",
           "min(self._silence_s_max, HEAD_S_MAX)", "HEAD_S_MAX"),
    Defect("silence is no cut", HttpSource, "tell", "self._stream.tell(message)", "pass"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_shows(defect: Defect) -> None:
    """On one kind of stream at least."""
    check_shown(FRONT, defect)


@pytest.mark.parametrize("defect", DEFECTS_BEHIND, ids=str)
def test_planted_defect_towards_the_upstream_shows(defect: Defect) -> None:
    """On one kind of stream at least."""
    check_shown(BEHIND, defect)


def check_shown(where: str, defect: Defect) -> None:
    with planted(defect), pytest.raises((Behind, requests.HTTPError)):
        for kind in FOLLOWED:
            run(where, kind, CUTS_FOR_A_DEFECT, seed=2)

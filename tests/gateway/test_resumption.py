"""A client that comes back to an event stream gets exactly what followed, or a refusal.

MCP-H-11, S-14 to S-16, S-19 to S-22, S-28; faults C1, C2.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from proxy_actors.gateway.keys import Identity, Keyring
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.protocol.sse import Event, SseDecoder
from tests.gateway.scene import Scene
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, note, request

GRAIN_S = 0.1
OLDER = ("2024-11-05", "2025-03-26", "2025-06-18")
COUNTED = ["sse", "note", "pause 5", "note", "pause 5", "answer", "end"]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def events(answer: Answer) -> list[Event]:
    return SseDecoder(1 << 24).feed(answer.body)


def ids(answer: Answer) -> list[bytes]:
    """The ids of the events that are messages."""
    return [event.id or b"" for event in events(answer) if event.data]


def came(answer: Answer) -> list[Any]:
    """What came, in short: the method of a message or the id of an answer."""
    return [x.get("method", x.get("id")) for x in answer.messages]


PROGRESS = "notifications/progress"


class Client:
    """Reads one stream; runs in a greenlet of its own."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.line: VirtualConnection = scene.connection()
        self._read: list[Answer] = []

    def begin(self, data: bytes, method: str = "POST") -> Answer:
        answer = Answer()
        self.line = self.scene.connection()
        self.line.send(data)
        line = self.line

        def read() -> None:
            line.receive(method, answer)
            self._read.append(answer)

        self.scene.spawn("reader", read)
        return answer

    def has_ended(self, answer: Answer) -> bool:
        """Whether nothing more comes, in good order or not."""
        return any(answer is other for other in self._read)

    def resume(self, session: str, id: bytes, **fields: str) -> Answer:
        """Begin to read what followed an event."""
        more = {"Last-Event-ID": id.decode(), **fields}
        return self.begin(request(None, "GET", session, fields=dict(more)), "GET")

    def until(self, condition: Any) -> None:
        for _ in range(10_000):
            if condition():
                return
            self.scene.pass_time(GRAIN_S)
        raise AssertionError("it does not happen")

    def leave(self) -> None:
        self.line.close()
        self.scene.pass_time(GRAIN_S)


def broken_call(scene: Scene, session: str, after: int) -> Answer:
    """Call, and lose the connection after so many messages."""
    client = Client(scene)
    answer = client.begin(request(call(1, *COUNTED), session=session))
    client.until(lambda: len(answer.messages) >= after)
    client.leave()
    return answer


def test_events_have_ids_that_differ_in_all_streams_of_a_session(scene: Scene) -> None:
    """MCP-S-15."""
    session = scene.session()
    answers = [
        scene.ask(request(call(n, "sse", "note", "answer", "end"), session=session))
        for n in (1, 2)
    ]
    found = [id for answer in answers for id in ids(answer)]
    assert len(set(found)) == len(found) == 4
    assert all(len(id) > 16 for id in found)
    scene.rest()


@pytest.mark.parametrize("version", [*OLDER, "2025-11-25"])
def test_clients_that_know_it_get_an_id_before_the_first_event(scene: Scene, version: str) -> None:
    """MCP-S-19, S-20: older ones would take the empty data for a message."""
    session = scene.session(version)
    fields = {"MCP-Protocol-Version": version}
    answer = scene.ask(request(call(1, *COUNTED), session=session, fields=dict(fields)))
    first = events(answer)[0]
    assert b"\nretry: 1000\n" in answer.body or version in OLDER
    assert (first.data == b"") is (version not in OLDER)
    assert b"retry" not in answer.body or version not in OLDER
    assert came(answer) == [PROGRESS, PROGRESS, 1]
    scene.rest()


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_answer_of_a_call_waits_for_its_client(scene: Scene, seen: int) -> None:
    """MCP-S-16, S-21, C1: exactly what followed comes, in mid-call as after its end."""
    session = scene.session()

    def client() -> list[Any]:
        before = broken_call(scene, session, seen)
        id = events(before)[-1].id if before.body else b""
        assert id
        got = came(before)
        if seen:
            scene.pass_time(20.0)
        again = Client(scene)
        answer = again.resume(session, id)
        again.until(lambda: answer.complete)
        again.leave()
        return got + came(answer)

    def primed() -> list[Any]:
        started = Client(scene)
        answer = started.begin(request(call(1, *COUNTED), session=session))
        started.until(lambda: answer.body)
        started.leave()
        id = events(answer)[0].id
        assert id
        answer = started.resume(session, id)
        started.until(lambda: answer.complete)
        started.leave()
        return came(answer)

    assert scene.do(client if seen else primed) == [PROGRESS, PROGRESS, 1]
    assert scene.server.executions[1] == 1
    scene.rest()


def test_every_id_of_a_stream_gives_what_followed_it(scene: Scene) -> None:
    session = scene.session()
    answer = scene.ask(request(call(1, *COUNTED), session=session))

    def client() -> list[list[bytes]]:
        rests = []
        for event in events(answer)[:-1]:
            again = Client(scene)
            assert event.id is not None
            rest = again.resume(session, event.id)
            again.until(lambda: rest.complete)
            again.leave()
            rests.append(ids(rest))
        return rests

    known = ids(answer)
    assert scene.do(client) == [known, known[1:], known[2:]]
    scene.rest()


def test_answer_does_not_wait_for_ever() -> None:
    scene = Scene(streams=StreamLimits(age_s_max=10.0))
    session = scene.session()
    answer = scene.ask(request(call(1, *COUNTED), session=session))
    scene.run(11.0)
    refused = scene.ask(
        request(None, "GET", session, fields={"Last-Event-ID": ids(answer)[0].decode()}),
        method="GET",
    )
    assert refused.status == 410
    scene.rest()


def test_streams_that_are_kept_after_their_end_are_bounded() -> None:
    scene = Scene(streams=StreamLimits(ended_max=2))
    session = scene.session()
    answers = [
        scene.ask(request(call(n, "sse", "note", "answer", "end"), session=session))
        for n in range(4)
    ]
    scene.run(1.0)
    assert len(scene.plane.streams) == 2
    found = [
        scene.ask(
            request(None, "GET", session, fields={"Last-Event-ID": ids(x)[0].decode()}),
            method="GET",
        ).status
        for x in answers
    ]
    assert found == [410, 410, 200, 200]
    scene.rest()


@pytest.mark.parametrize("id", ["call-guessed.1", "call-.0"])
def test_rest_of_a_call_that_is_not_there_is_410(scene: Scene, id: str) -> None:
    """404 would end the session, an empty stream would be polled for ever."""
    session = scene.session()
    get = request(None, "GET", session, fields={"Last-Event-ID": id})
    assert scene.ask(get, method="GET").status == 410
    assert scene.ask(request(call(1), session=session)).status == 200


def test_number_that_never_was_is_410(scene: Scene) -> None:
    session = scene.session()
    answer = scene.ask(request(call(1, *COUNTED), session=session))
    stream, _, number = ids(answer)[-1].rpartition(b".")
    for wrong in (int(number), int(number) + 1, 10**17):
        fields = {"Last-Event-ID": f"{stream.decode()}.{wrong}"}
        get = request(None, "GET", session, fields=dict(fields))
        assert scene.ask(get, method="GET").status == 410
    scene.rest()


def test_events_of_another_session_are_not_to_be_had(scene: Scene) -> None:
    """MCP-S-16: its calls are as if they were not; its standalone stream neither."""
    sessions = [scene.session() for _ in range(2)]
    answer = scene.ask(request(call(1, *COUNTED), session=sessions[0]))
    fields: dict[str, str | None] = {"Last-Event-ID": ids(answer)[0].decode()}
    stolen = scene.ask(request(None, "GET", sessions[1], fields=fields), method="GET")
    assert stolen.status == 410
    assert b"progress" not in stolen.body
    scene.rest()


def test_events_of_another_principal_are_not_to_be_had() -> None:
    """MCP-S-16: its session does not exist for anybody else, 404."""
    keys = {name: f"pa_{name}{'x' * 40}" for name in ("ann", "bob")}
    keyring = Keyring(
        {hashlib.sha256(x.encode()).digest(): Identity(name) for name, x in keys.items()},
        anonymous=False,
    )
    scene = Scene(keyring=keyring)
    ann, bob = ({"X-API-Key": keys[name]} for name in ("ann", "bob"))
    opened = scene.ask(request(initialize(), fields=dict(ann)))
    session = (opened.field(b"mcp-session-id") or b"").decode()
    answer = scene.ask(request(call(1, *COUNTED), session=session, fields=dict(ann)))
    fields = {"Last-Event-ID": ids(answer)[0].decode()}
    stolen = scene.ask(
        request(None, "GET", session, fields={**bob, **fields}), method="GET"
    )
    own = scene.ask(request(None, "GET", session, fields={**ann, **fields}), method="GET")
    assert (stolen.status, own.status) == (404, 200)
    assert came(own) == [PROGRESS, 1]
    scene.rest()


def standing(scene: Scene) -> Any:
    (session,) = scene.server.sessions.values()
    assert session.standalone is not None
    return session.standalone


def test_standalone_stream_goes_on_where_its_client_was(scene: Scene) -> None:
    """What the server says meanwhile waits; the upstream sees one stream."""
    session = scene.session()
    get = request(None, "GET", session)

    def client() -> tuple[list[Any], list[Any]]:
        reader = Client(scene)
        first = reader.begin(get, "GET")
        reader.until(lambda: first.body)
        for name in ("one", "two"):
            standing(scene).put(note(name))
        reader.until(lambda: len(first.messages) == 2)
        reader.leave()
        standing(scene).put(note("three"))
        scene.pass_time(1.0)
        second = reader.resume(session, ids(first)[0])
        reader.until(lambda: len(second.messages) == 2)
        standing(scene).put(note("four"))
        reader.until(lambda: len(second.messages) == 3)
        reader.leave()
        return came(first), came(second)

    assert scene.do(client) == (["one", "two"], ["two", "three", "four"])
    assert [x.method for x in scene.server.seen].count("GET") == 1
    scene.rest()


def test_client_that_knows_no_id_gets_what_nobody_has_got(scene: Scene) -> None:
    """MCP-H-11: no message twice."""
    session = scene.session("2025-06-18")
    get = request(None, "GET", session, fields={"MCP-Protocol-Version": "2025-06-18"})

    def client() -> tuple[list[Any], list[Any]]:
        reader = Client(scene)
        first = reader.begin(get, "GET")
        reader.until(lambda: first.status)
        standing(scene).put(note("one"))
        reader.until(lambda: first.body)
        reader.leave()
        standing(scene).put(note("two"))
        scene.pass_time(1.0)
        second = reader.begin(get, "GET")
        reader.until(lambda: second.body)
        reader.leave()
        return came(first), came(second)

    assert scene.do(client) == (["one"], ["two"])
    scene.rest()


def test_client_that_comes_back_does_not_wait_for_its_old_connection(scene: Scene) -> None:
    """The old one may look alive for minutes; a second client without an id is 409 (MCP-S-28)."""
    session = scene.session()
    get = request(None, "GET", session)

    def client() -> tuple[bool, Any, list[Any]]:
        reader = Client(scene)
        first = reader.begin(get, "GET")
        reader.until(lambda: first.body)
        old, id = reader.line, events(first)[0].id
        assert id
        refused = scene.connection()
        status = refused.ask(get, "GET").status
        refused.close()
        second = reader.resume(session, id)
        reader.until(lambda: second.body)
        standing(scene).put(note("one"))
        reader.until(lambda: second.messages)
        reader.leave()
        old.close()
        return first.complete, status, came(second)

    assert scene.do(client) == (False, 409, ["one"])
    scene.rest()


@pytest.mark.parametrize("id", ["standalone-guessed.1", "of the upstream", "17", "", "call-x"])
def test_id_of_no_call_gives_the_standalone_stream_from_now_on(scene: Scene, id: str) -> None:
    """After a restart of the proxy, say: nothing else is to be had."""
    session = scene.session()

    def client() -> list[Any]:
        reader = Client(scene)
        answer = reader.resume(session, id.encode())
        reader.until(lambda: answer.body)
        standing(scene).put(note("one"))
        reader.until(lambda: answer.messages)
        reader.leave()
        return came(answer)

    assert scene.do(client) == ["one"]
    assert all(x.field("last-event-id") is None for x in scene.server.seen)
    scene.rest()


def test_standalone_stream_that_has_ended_gives_way_to_a_new_one(scene: Scene) -> None:
    """What was missed of it can be fetched; who has missed nothing gets the new one."""
    session = scene.session()
    get = request(None, "GET", session)

    def client() -> list[list[Any]]:
        reader = Client(scene)
        first = reader.begin(get, "GET")
        reader.until(lambda: first.body)
        begin = events(first)[0].id
        standing(scene).put(note("one"))
        scene.server.offers_standalone = False
        standing(scene).end()
        reader.until(lambda: reader.has_ended(first))
        assert begin and not first.complete  # the client sees that it was not to end
        again = reader.resume(session, begin)
        reader.until(lambda: reader.has_ended(again))
        scene.server.offers_standalone = True
        new = reader.resume(session, ids(again)[-1])
        reader.until(lambda: new.body)
        standing(scene).put(note("two"))
        reader.until(lambda: new.messages)
        reader.leave()
        return [came(first), came(again), came(new)]

    assert scene.do(client) == [["one"], ["one"], ["two"]]
    scene.rest()


def test_client_that_falls_behind_is_cut_and_comes_back(scene: Scene) -> None:
    """C2: it gets every event once."""
    scene = Scene(streams=StreamLimits(bytes_max=4_000_000))
    session = scene.session()
    notes = 30
    steps = ["sse", *["note 100000"] * notes, "answer", "end"]

    def client() -> list[bytes]:
        line = scene.connection()
        line.send(request(call(1, *steps), session=session))
        while scene.plane.table.leases or not scene.server.executions[1]:
            scene.pass_time(GRAIN_S)
        answer = line.receive()
        assert not answer.complete
        line.close()
        got = ids(answer)
        while not answer.complete:
            line = scene.connection()
            fields = {"Last-Event-ID": got[-1].decode()}
            answer = line.ask(request(None, "GET", session, fields=dict(fields)), "GET")
            line.close()
            got += ids(answer)
        return got

    got = scene.do(client)
    assert [int(id.rpartition(b".")[2]) for id in got] == list(range(1, notes + 2))
    meters = scene.plane.streams.meters
    assert meters.cut == meters.resumed >= 1
    scene.rest()


EARLY = StreamLimits(connection_s_max=7.0, retry_ms=250)


def read_early(scene: Scene, session: str, version: str, *steps: str) -> list[Answer]:
    """Call, and come back as often as the connection ends before the answer has come."""
    answers = [Answer()]
    fields: dict[str, str | None] = {"MCP-Protocol-Version": version}
    data, method = request(call(1, *steps), session=session, fields=fields), "POST"
    line = scene.connection()
    while True:
        answers[-1] = line.ask(data, method)
        assert answers[-1].complete and answers[-1].keep_alive
        if 1 in came(answers[-1]):
            line.close()
            return answers
        last = events(answers[-1])[-1]
        assert last.data == b"" and last.id and b"retry: 250\n" in answers[-1].body
        scene.pass_time(0.25)
        fields = {"Last-Event-ID": last.id.decode(), "MCP-Protocol-Version": version}
        data, method = request(None, "GET", session, fields=fields), "GET"
        answers.append(Answer())


@pytest.mark.parametrize("gap", ["pause 5", "pause 8", "pause 0.01"])
def test_connection_ends_early_and_its_stream_goes_on(gap: str) -> None:
    """MCP-S-20: `retry` comes first, the connection can be used again, no event is lost."""
    scene = Scene(streams=EARLY)
    session = scene.session()
    notes = 4 if gap != "pause 0.01" else 1500
    steps = ["sse", *["note", gap] * notes, "answer", "end"]
    answers = scene.do(lambda: read_early(scene, session, "2025-11-25", *steps))
    got = [id for answer in answers for id in ids(answer)]
    assert [int(id.rpartition(b".")[2]) for id in got] == list(range(1, notes + 2))
    assert len(answers) >= 3
    meters = scene.plane.streams.meters
    assert meters.closed_early == meters.resumed == len(answers) - 1
    assert scene.server.executions[1] == 1
    scene.rest()


@pytest.mark.parametrize("version", OLDER)
def test_connections_of_older_clients_never_end_early(version: str) -> None:
    scene = Scene(streams=EARLY)
    session = scene.session(version)
    (answer,) = scene.do(
        lambda: read_early(scene, session, version, "sse", "note", "pause 60", "answer", "end")
    )
    assert b"retry" not in answer.body
    scene.rest()


def test_connection_of_a_standalone_stream_ends_early() -> None:
    """Before any event too; what is said meanwhile waits."""
    scene = Scene(streams=EARLY)
    session = scene.session()

    def client() -> list[Any]:
        listener = Client(scene)
        first = listener.begin(request(None, "GET", session), "GET")
        listener.until(lambda: first.complete)
        listener.leave()
        assert events(first)[-1].data == b""
        assert b"retry: 250" in first.body
        standing(scene).put(note("meanwhile"))
        again = Client(scene)
        id = events(first)[-1].id
        assert id
        rest = again.resume(session, id)
        again.until(lambda: rest.complete)
        again.leave()
        return came(rest)

    assert scene.do(client) == ["meanwhile"]
    scene.rest()


@pytest.mark.parametrize("version", [*OLDER, "2025-11-25"])
def test_listener_is_told_when_to_come_back_in_a_drain(version: str) -> None:
    """MCP-S-20: its stream has no end of its own, so it ends at once; calls run on."""
    scene = Scene()
    session = scene.session(version)

    def client() -> Answer:
        listener = Client(scene)
        fields = {"MCP-Protocol-Version": version}
        answer = listener.begin(request(None, "GET", session, fields=dict(fields)), "GET")
        listener.until(lambda: answer.status)
        scene.pass_time(1.0)
        before = len(answer.body)
        scene.plane.drain()
        listener.until(lambda: answer.complete)
        assert (b"retry: 1000" in answer.body[before:]) is (version not in OLDER)
        return answer

    scene.do(client)

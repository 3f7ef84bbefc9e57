"""Who comes back to a stream whose actor is no more, where streams are written down.

MCP-S-16, S-21; FLT-P15. What the file does is the matter of tests/storage, what a restart does that
of tests/wire; here the actors crash, and the store is one of the test's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from proxy_actors.messages.stream_store import (
    ForgetStream,
    FoundStream,
    KeepEvent,
    LeaveStream,
    OpenStream,
    StreamWrite,
    TrimStream,
)
from proxy_actors.policy.stream_limits import StreamLimits
from tests.gateway.scene import Scene
from tests.gateway.test_resumption import Client, came, events, ids
from tests.gateway.test_stream_bounds import Poison
from tests.sim.virtual import Answer, call, note, request

PROGRESS = "notifications/progress"


class Store:
    """A `StreamStore` of lists; what is done about a hole in them is the file's matter."""

    def __init__(self) -> None:
        self.lost = 0
        self.writes: list[StreamWrite] = []
        self.hangs = False

    def write(self, write: StreamWrite) -> None:
        self.writes.append(write)

    def sync(self, done: Callable[[None], object]) -> None:
        if not self.hangs:
            done(None)

    def close(self, deadline_s: float) -> bool:
        return True

    def read(
        self, stream: str, after: int, done: Callable[[FoundStream | None], object]
    ) -> None:
        told = [write for write in self.writes if write.stream.id == stream]
        if not told or isinstance(told[-1], ForgetStream):
            done(None)
            return
        kept = {write.number: write.data for write in told if isinstance(write, KeepEvent)}
        for write in told:
            if isinstance(write, (KeepEvent, TrimStream)):
                kept = {number: kept[number] for number in kept if number >= write.first}
        last = max(kept, default=0)
        following = [kept.get(number) for number in range(after + 1, last + 1)]
        whole = None not in following
        done(FoundStream(
            told[0].stream,
            tuple(data for data in following if data is not None) if whole else None,
            kept.get(last, b""),
            next((x.stream.id for x in self.writes[self.writes.index(told[0]) + 1 :]
                  if isinstance(x, OpenStream) and not x.stream.request_id), ""),
        ))  # fmt: skip

    def kinds(self) -> list[type]:
        return [type(write) for write in self.writes]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(stream_store=store)


def begin(scene: Scene, session: str, seen: int, *steps: str) -> Answer:
    """Call, leave after so many messages, and crash what carries the answer."""
    client = Client(scene)
    answer = client.begin(request(call(1, *steps), session=session))
    client.until(lambda: len(answer.messages) >= seen and answer.body)
    client.leave()
    return answer


def crash(scene: Scene) -> None:
    for slot in list(scene.plane.streams._slots.values()):
        slot.tell(Poison())
    scene.pass_time(1.0)


def resumed(scene: Scene, session: str, id: bytes) -> Answer:
    client = Client(scene)
    answer = client.resume(session, id)
    client.until(lambda: answer.complete)
    client.leave()
    return answer


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_call_whose_stream_crashed_is_replayed_and_answered(
    scene: Scene, seen: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As far as it goes, then an error that says that the call may have been executed."""
    caplog.set_level(logging.CRITICAL)
    session = scene.session()

    def client() -> None:
        before = begin(scene, session, seen, "sse", "note", "pause 2", "note", "pause 90", "answer")
        scene.pass_time(5.0)
        crash(scene)
        id = events(before)[-1].id
        assert id
        after = resumed(scene, session, id)
        assert came(before) + came(after) == [PROGRESS, PROGRESS, 1]
        numbers = [int(id.rpartition(b".")[2]) for id in ids(before) + ids(after)]
        assert numbers == [1, 2, 3]
        data = after.message["error"]["data"]
        assert (data["executed"], data["reason"]) == ("unknown", "internal")
        assert came(resumed(scene, session, id)) == came(after)

    scene.do(client)
    assert scene.server.executions[1] == 1
    meters = scene.plane.streams.meters
    assert meters.resumed == 2 and meters.gone == 0


def test_event_that_was_seen_and_not_written_down_is_no_gap(scene: Scene, store: Store) -> None:
    """The client has it: nothing that is known has followed it."""
    session = scene.session()

    def client() -> Answer:
        before = begin(scene, session, 2, "sse", "note", "note", "pause 90", "answer")
        crash(scene)
        store.writes = [x for x in store.writes if getattr(x, "number", 0) != 2]
        id = events(before)[-1].id
        assert id
        return resumed(scene, session, id)

    answer = scene.do(client)
    assert came(answer) == [1] and "error" in answer.message


def test_answer_that_was_written_down_is_the_answer(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    session = scene.session()

    def client() -> None:
        before = begin(scene, session, 1, "sse", "note", "pause 2", "answer", "end")
        scene.pass_time(5.0)
        crash(scene)
        id = ids(before)[0]
        after = resumed(scene, session, id)
        assert came(after) == [1] and "result" in after.message
        assert resumed(scene, session, ids(after)[-1]).status == 410

    scene.do(client)


def test_other_session_gets_nothing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """MCP-S-16, THR-T5: its calls are as if they were not."""
    caplog.set_level(logging.CRITICAL)
    session, other = scene.session(), scene.session()

    def client() -> Answer:
        before = begin(scene, session, 1, "sse", "note", "pause 90", "answer")
        crash(scene)
        return resumed(scene, other, ids(before)[0])

    assert scene.do(client).status == 410


def test_standalone_stream_goes_on_with_the_next_one(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What was missed comes first, and no id is told that stands behind it."""
    caplog.set_level(logging.CRITICAL)
    scene = Scene(stream_store=store, streams=StreamLimits(connection_s_max=5.0))
    session = scene.session()

    def standing() -> Any:
        (own,) = scene.server.sessions.values()
        return own.standalone

    def client() -> None:
        reader = Client(scene)
        first = reader.begin(request(None, "GET", session), "GET")
        reader.until(lambda: first.body)
        standing().put(note("one"))
        reader.until(lambda: first.messages)
        reader.leave()
        for name in ("two", "three"):
            standing().put(note(name))
        scene.pass_time(1.0)
        crash(scene)
        second = reader.resume(session, ids(first)[0])
        reader.until(lambda: len(second.messages) == 2)
        standing().put(note("four"))
        reader.until(lambda: second.complete)
        reader.leave()
        assert came(second) == ["two", "three", "four"]
        assert [event.data != b"" for event in events(second)] == [True, True, False, True, False]
        third = reader.resume(session, ids(second)[1])
        reader.until(lambda: third.complete)
        reader.leave()
        assert came(third) == ["four"], "it is the first that followed"

    scene.do(client)


def test_streams_that_are_over_for_good_are_forgotten(scene: Scene, store: Store) -> None:
    session = scene.session()
    scene.ask(request(call(1, "sse", "note", "answer", "end"), session=session))
    assert store.kinds() == [OpenStream, KeepEvent, KeepEvent]
    scene.run(61.0)
    assert store.kinds()[3:] == [ForgetStream]
    scene.rest()


def test_nothing_is_forgotten_in_a_drain(scene: Scene, store: Store) -> None:
    """The next process may be asked for it."""
    session = scene.session()
    scene.ask(request(call(1, "sse", "note", "answer", "end"), session=session))
    scene.plane.streams.draining = True
    scene.plane.drain()
    scene.run(61.0)
    assert store.kinds()[3:] == [LeaveStream]


def test_disk_that_hangs_keeps_nobody_waiting_for_long(scene: Scene, store: Store) -> None:
    store.hangs = True
    session = scene.session()
    answer = scene.ask(request(call(1, "sse", "note", "answer", "end"), session=session))
    assert came(answer) == [PROGRESS, 1]
    scene.rest()


def test_plain_call_writes_nothing(scene: Scene, store: Store) -> None:
    session = scene.session()
    assert scene.ask(request(call(1), session=session)).status == 200
    assert store.writes == []
    scene.rest()

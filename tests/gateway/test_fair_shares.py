"""Nobody has so many of what is bounded that another client finds none: sessions, handshakes,
streams, and what is kept of these.

Two principals, `ann` who takes all that she can get, and `bob`. RELIABILITY 1.11.
"""

from __future__ import annotations

import pytest

from proxy_actors.options import StdioMode
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.session_shares import SessionShares
from proxy_actors.policy.sessions import SessionLimits
from proxy_actors.policy.stdio_children import ChildrenLimits, ChildrenPolicy
from proxy_actors.policy.stream_bounds import StreamBooks
from proxy_actors.policy.stream_limits import StreamLimits
from tests.defects import Defect, planted
from tests.gateway.scene import ClientWorld, Scene
from tests.gateway.test_limits import KEYRING, as_
from tests.gateway.test_resumption import Client, ids
from tests.gateway.test_stdio_shares import Crowd
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, request


def opened(scene: ClientWorld, who: str) -> Answer:
    """What becomes of an `initialize`."""
    connection = VirtualConnection(scene)
    answer = connection.ask(request(initialize(), fields=as_(who)))
    connection.close()
    return answer


def session_of(answer: Answer) -> str:
    id = answer.field(b"mcp-session-id")
    assert id is not None, answer
    return id.decode()


def listen(scene: Scene, who: str, session: str) -> tuple[Client, Answer]:
    """Open a session's stream and stay."""
    client = Client(scene)
    answer = client.begin(request(None, "GET", session, fields=as_(who)), "GET")
    client.until(lambda: answer.status is not None)
    return client, answer


def test_client_that_listens_in_all_its_sessions_leaves_some_to_others() -> None:
    """It gets 429 for one too many; none of its sessions ends, and others are served."""
    scene = Scene(keyring=KEYRING, session_limits=SessionLimits(sessions_max=4))

    def client() -> None:
        listeners = []
        for _ in range(3):
            session = session_of(opened(scene, "ann"))
            listener, answer = listen(scene, "ann", session)
            assert answer.status == 200
            listeners.append((listener, session))
        refused = opened(scene, "ann")
        assert refused.status == 429
        data = refused.error["data"]
        assert (data["reason"], data["retryable"]) == ("rate-limited", True)
        assert refused.field(b"retry-after") == b"5"
        bobs = session_of(opened(scene, "bob"))
        for who, session in [("bob", bobs), *(("ann", session) for _, session in listeners)]:
            answer = scene.connection().ask(request(call(1), session=session, fields=as_(who)))
            assert answer.status == 200
        assert opened(scene, "bob").status == 200, "his own, which is idle, makes room"
        assert opened(scene, "cleo").status == 200, "so it does for one who has none"
        assert opened(scene, "ann").status == 503, "and now there is nothing left to share"
        for listener, _ in listeners:
            listener.leave()

    scene.do(client)
    assert len(scene.server.sessions) == 4, "what was refused is open at the upstream"
    scene.rest()


def test_client_with_many_handshakes_leaves_processes_to_others() -> None:
    """Of a server that takes long to start; here four may begin or run at a time."""
    crowd = Crowd(
        StdioMode.SESSION, starts_s=5.0, keyring=KEYRING,
        children=ChildrenLimits(sessions_max=2, handshakes_max=2),
    )
    came: list[tuple[str, int | None]] = []

    def client(who: str) -> None:
        came.append((who, opened(crowd, who).status))

    for who in ("ann", "ann", "ann", "ann", "bob", "cleo"):
        crowd.spawn("client", lambda who=who: client(who))
        crowd.run(0.1)
    assert came == [("ann", 429), ("cleo", 503)]
    crowd.run(10.0)
    assert sorted(came[2:]) == [("ann", 200), ("ann", 200), ("ann", 200), ("bob", 200)]


def test_client_with_many_open_streams_leaves_some_to_others() -> None:
    """It listens no more, and its calls are answered without a stream; another's have one."""
    scene = Scene(keyring=KEYRING, streams=StreamLimits(streams_max=4))

    def client() -> None:
        anns = [session_of(opened(scene, "ann")) for _ in range(4)]
        bobs = session_of(opened(scene, "bob"))
        listeners = [listen(scene, "ann", session) for session in anns]
        assert [answer.status for _, answer in listeners] == [200, 200, 200, 429]
        assert listeners[-1][1].error["data"]["reason"] == "rate-limited"

        def notified(who: str, session: str) -> bytes | None:
            script = call(1, "sse", "note", "answer", "end")
            answer = scene.connection().ask(request(script, session=session, fields=as_(who)))
            assert answer.messages[-1]["id"] == 1
            return answer.field(b"content-type")

        assert notified("ann", anns[0]) == b"application/json"
        assert notified("bob", bobs) == b"text/event-stream"
        for listener, _ in listeners:
            listener.leave()

    scene.do(client)
    assert scene.plane.streams.meters.refused == {"share": 2}
    scene.rest()


def test_client_with_much_that_is_kept_does_not_cost_another_its_replay() -> None:
    """MCP-S-16: bob's stream ended first of all, but it is ann who holds most."""
    scene = Scene(keyring=KEYRING, streams=StreamLimits(bytes_total_max=6000))

    def client() -> None:
        bobs, anns, cleos = (session_of(opened(scene, who)) for who in ("bob", "ann", "cleo"))

        def ended(who: str, session: str, size: int = 500) -> bytes:
            """A stream that has ended; return the id of its first event."""
            script = call(1, "sse", f"note {size}", "answer", "end")
            answer = scene.connection().ask(request(script, session=session, fields=as_(who)))
            return ids(answer)[0]

        kept = [("bob", bobs, ended("bob", bobs))]
        kept += [("ann", anns, ended("ann", anns)) for _ in range(12)]
        ended("cleo", cleos, 1500)
        found = []
        for who, session, id in kept:
            again = Client(scene)
            rest = again.resume(session, id, Authorization=f"Bearer {who}")
            again.until(lambda rest=rest: rest.complete)
            found.append(rest.status)
            again.leave()
        assert found[0] == 200
        assert found[1:] == [410] * found.count(410) + [200] * (12 - found.count(410))
        assert 0 < found.count(410) < 12

    scene.do(client)
    scene.rest()


@pytest.mark.parametrize(
    "defect",
    [
        Defect("one client may have all", SessionShares, "has_room", "self.held[holder]", "0"),
        Defect("one client may have all processes", ChildrenPolicy, "_take",
               "self._held[owner]", "0"),
        Defect("one client may have all streams", StreamBooks, "reached",
               "may_have_one_more(of_name, free)", "True"),
        Defect("whoever holds least makes room", RingBudget, "make_room",
               "max(self._giving", "min(self._giving"),
    ],
    ids=str,
)  # fmt: skip
def test_these_tests_find_what_is_planted(defect: Defect) -> None:
    tests = {
        SessionShares: test_client_that_listens_in_all_its_sessions_leaves_some_to_others,
        ChildrenPolicy: test_client_with_many_handshakes_leaves_processes_to_others,
        StreamBooks: test_client_with_many_open_streams_leaves_some_to_others,
        RingBudget: test_client_with_much_that_is_kept_does_not_cost_another_its_replay,
    }
    with planted(defect), pytest.raises(AssertionError):
        tests[defect.owner]()  # type: ignore[index]  # none of these is a module

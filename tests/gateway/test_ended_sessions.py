"""What becomes of a call whose own session its client ends meanwhile.

RELIABILITY 1.11; MCP-S-7. Where the session has something of its own at the server, a process or a
stream, that ends with it, and so does the call: which is nobody's fault, and is said as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.options import StdioMode
from tests.defects import Defect, planted
from tests.gateway.scene import ClientWorld, Scene
from tests.gateway.sse_scene import SseScene
from tests.gateway.test_stdio_shares import Crowd
from tests.sim.virtual import Answer, VirtualConnection, call, initialize, request

# With a token the server tells of progress, so that the answer is a stream.
TOLD = {"progressToken": 1, "progress": 1}
STEPS: dict[str, list[str]] = {
    "http": ["sse", "note", "pause 60", "answer", "end"],
    "sse": ["pause 60", "answer"],
    "sse stream": ["note", "pause 60", "answer"],
    "process": [],
    "process stream": [],
}


def world_of(kind: str) -> ClientWorld:
    if kind.startswith("process"):
        return Crowd(StdioMode.SESSION, call_s=60.0)
    return SseScene() if kind.startswith("sse") else Scene()


def ended(world: ClientWorld, kind: str) -> Answer:
    """Call, end the session two seconds later, and return what the call is answered with."""
    answer = Answer()

    def client() -> None:
        connection, other = VirtualConnection(world), VirtualConnection(world)
        id = other.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        script = call(1, *STEPS[kind])
        if kind != "process" and kind != "sse":
            script["params"]["_meta"] = TOLD
        connection.send(request(script, session=id.decode()))
        world.spawn("reader", lambda: connection.receive(answer=answer))
        world.pass_time(2.0)
        assert other.ask(request(None, "DELETE", id.decode()), "DELETE").status == 200
        while not answer.complete:
            world.pass_time(0.1)
        for line in (connection, other):
            line.close()

    world.do(client)
    return answer


@pytest.mark.parametrize("kind", STEPS)
def test_call_of_a_session_that_its_client_ends_is_told_so(kind: str) -> None:
    """It may have been executed; that its process was stopped, or a stream, is not its failure."""
    answer = ended(world_of(kind), kind)
    assert answer.status == (404 if kind in ("sse", "process") else 200)
    error = answer.messages[-1]["error"]
    assert error["message"] == "the session has ended"
    assert (error["data"]["reason"], error["data"]["executed"]) == ("session-lost", "unknown")
    assert len(answer.messages) == (1 if kind in ("sse", "process") else 2)


@pytest.mark.parametrize("token", [None, TOLD])
def test_server_that_answers_before_its_end_is_heard(token: Any) -> None:
    """It has two seconds from the end of its input."""
    crowd = Crowd(StdioMode.SESSION, call_s=3.0)
    script = call(1)
    if token is not None:
        script["params"]["_meta"] = token
    answer = Answer()

    def client() -> None:
        connection, other = VirtualConnection(crowd), VirtualConnection(crowd)
        connection.send(request(script, session=crowd.hog))
        crowd.spawn("reader", lambda: connection.receive(answer=answer))
        crowd.pass_time(2.0)
        other.ask(request(None, "DELETE", crowd.hog), "DELETE")
        while not answer.complete:
            crowd.pass_time(0.1)
        for line in (connection, other):
            line.close()

    crowd.do(client)
    assert "result" in answer.messages[-1]


DEFECTS: list[tuple[str, Defect]] = [
    ("process", Defect("the end of the process is what is told", StdioProcess,
                       "_hear_last_words", "elif self._session_over:", "elif False:")),
    ("process stream", Defect("a stream stops before it has heard why", EventStream,
                              "on_stop_requested", "self.ref.tell(m.StopStream())", "self.stop()")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "defect"), DEFECTS)
def test_these_tests_find_what_is_planted(kind: str, defect: Defect) -> None:
    told: Callable[[str], None] = test_call_of_a_session_that_its_client_ends_is_told_so
    with planted(defect), pytest.raises(AssertionError):
        told(kind)

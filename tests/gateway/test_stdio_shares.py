"""Shares of what serves all sessions on stdio: whoever has most underway keeps nobody waiting.

In virtual time, with servers that take a second for a call.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from proxy_actors.errors import FailedError, Reason
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio import DescribeServer
from proxy_actors.options import StdioMode
from proxy_actors.policy import stdio_calls
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults
from tests.gateway.scene import ClientWorld
from tests.sim.upstream import LineReader
from tests.sim.virtual import PROXY, Answer, VirtualConnection, call, initialize, note, request
from tests.stdio_plane import StdioPlane


class Crowd(ClientWorld):
    """The proxy before such servers, and two clients of one address, whose shares are sessions'."""

    def __init__(
        self,
        mode: StdioMode,
        waiters_max: int = 1000,
        starts_s: float = 0.0,
        call_s: float = 1.0,
        **bounds: Any,  # Any: the keys and bounds of the plane
    ) -> None:
        super().__init__(1, Faults(fragment=0.0))
        self.starts_s, self.call_s = starts_s, call_s
        self.programs["server"] = self._serve
        limits = SharedChildrenLimits(1, waiters_max)
        self.plane = StdioPlane(
            self, mode, ChildCommand(("server",), {}), MemoryStore(), PROXY, shared=limits,
            **bounds,
        )
        self.plane.start()
        self.run(1.0)
        if not starts_s:
            self.hog, self.other = self.do(self._open), self.do(self._open)

    def start(self, session: str, calls: int) -> list[Answer]:
        """Send calls, each on a connection of its own; the answers fill as they come."""
        answers = [Answer() for _ in range(calls)]
        for n, answer in enumerate(answers):
            self.spawn("client", lambda n=n, answer=answer: self._call(session, n, answer))
        return answers

    def _call(self, session: str, n: int, answer: Answer) -> None:
        connection = VirtualConnection(self)
        connection.send(request(call(n), session=session))
        connection.receive(answer=answer)
        connection.close()

    def _open(self) -> str:
        connection = VirtualConnection(self)
        id = connection.ask(request(initialize())).field(b"mcp-session-id")
        connection.close()
        assert id is not None
        return id.decode()

    def _serve(self, process: SimProcess) -> int:
        self.pass_time(self.starts_s)
        reader = LineReader(process.input)
        while line := reader.line(math.inf):
            message = json.loads(line)
            if message.get("method") == "tools/call":
                if "_meta" in message["params"]:
                    progress = note("notifications/progress", **message["params"]["_meta"])
                    process.output.write((json.dumps(progress).encode() + b"\n",), math.inf)
                self.pass_time(self.call_s)
            if "id" in message:
                result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
                process.output.write((json.dumps(answer).encode() + b"\n",), math.inf)
        return 0


def test_session_with_a_queue_for_a_pool_does_not_keep_another_waiting() -> None:
    crowd = Crowd(StdioMode.POOL)
    calls = crowd.start(crowd.hog, 6)
    crowd.run(0.5)
    (late,) = crowd.start(crowd.other, 1)
    crowd.run(2.0)
    assert late.status == 200
    assert sum(call.complete for call in calls) == 1
    crowd.run(6.0)
    assert [call.status for call in calls] == [200] * 6


def test_full_line_for_a_pool_makes_room_for_another_session() -> None:
    """Whoever has most in it is refused; it was not executed."""
    crowd = Crowd(StdioMode.POOL, waiters_max=3)
    calls = crowd.start(crowd.hog, 4)
    crowd.run(0.5)
    (late,) = crowd.start(crowd.other, 1)
    crowd.run(0.2)
    (refused,) = [call for call in calls if call.complete]
    assert (refused.status, refused.error["data"]["reason"]) == (503, "overloaded")
    assert refused.error["data"]["executed"] == "no"
    crowd.run(5.0)
    assert late.status == 200
    assert sorted(x.status or 0 for x in calls) == [200, 200, 200, 503]


def test_session_with_many_calls_at_a_shared_child_leaves_room_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is in flight is not taken back: a session alone gets a third of what may be."""
    monkeypatch.setattr(stdio_calls, "CALLS_MAX", 3)
    crowd = Crowd(StdioMode.SHARED)
    calls = crowd.start(crowd.hog, 5)
    crowd.run(0.5)
    late = crowd.start(crowd.other, 1)
    crowd.run(0.4)
    refused = [call for call in calls if call.complete]
    assert [call.error["data"]["reason"] for call in refused] == ["overloaded"] * 2
    crowd.run(10.0)
    assert [answer.status for answer in late] == [200]
    assert sorted(x.status or 0 for x in calls) == [200] * 3 + [503] * 2


@pytest.mark.parametrize("mode", [StdioMode.SHARED, StdioMode.POOL])
def test_who_waits_for_the_first_child_leaves_room_for_others(mode: StdioMode) -> None:
    crowd = Crowd(mode, waiters_max=2, starts_s=5.0)
    told: list[tuple[str, Reason | None]] = []

    def describe(name: str) -> None:
        try:
            crowd.plane.upstream.ask(DescribeServer(Owner(name)), crowd.now_s() + 10.0)
            told.append((name, None))
        except FailedError as error:
            told.append((name, error.reason))

    for name in ("hog", "hog", "hog", "hog", "other"):
        crowd.spawn("client", lambda name=name: describe(name))
    crowd.run(1.0)
    assert told == [("hog", Reason.OVERLOADED)] * 2
    crowd.run(5.0)
    assert sorted(told[2:]) == [("hog", None), ("hog", None), ("other", None)]
    for _ in range(3):
        crowd.spawn("client", lambda: describe("hog"))
        crowd.run(0.1)
    assert told[5:] == [("hog", None)] * 3, "who has been told waits no more"

"""Processes that rest, from the listener to the pipes: what clients and checks see of it.

Which orders of messages there may be is searched in tests/policy, and drawn in tests/sim.
"""

from __future__ import annotations

import json
import math

import pytest

from proxy_actors.gateway.checks import SharedChecker
from proxy_actors.messages.health import Verdict
from proxy_actors.options import StdioMode
from proxy_actors.policy.stdio_shared_children import SharedChildrenLimits
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.sim.upstream import LineReader
from tests.sim.virtual import PROXY, Answer, VirtualConnection, initialize, request
from tests.stdio_plane import StdioPlane

IDLE_S = 20.0
RESULT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
SHARED = [StdioMode.SHARED, StdioMode.POOL]


class Scene(SimWorld):
    """A proxy, and a server of which each call tells its progress, waits, and is answered."""

    def __init__(self, mode: StdioMode, stubborn: bool = False) -> None:
        super().__init__(1, Faults(fragment=0.0))
        self.stubborn = stubborn
        self.running = 0
        self.programs["server"] = self.serve
        self.plane = StdioPlane(
            self, mode, ChildCommand(("server",), {}), MemoryStore(), PROXY,
            shared=SharedChildrenLimits(1, idle_stop_s=IDLE_S),
        )
        self.plane.start()
        self.run(1.0)

    def serve(self, process: SimProcess) -> int:
        process.ignores_term = self.stubborn
        self.running += 1
        try:
            reader = LineReader(process.input)
            while line := reader.line(math.inf):
                self.take(process, json.loads(line))
            if self.stubborn:
                self.waiter().wait(math.inf)
            return 0
        finally:
            self.running -= 1

    def take(self, process: SimProcess, message: dict[str, object]) -> None:
        params = message.get("params")
        if message.get("method") == "tools/call" and isinstance(params, dict):
            told = {"progressToken": params["_meta"]["progressToken"], "progress": 1}
            self.say(process, {"method": "notifications/progress", "params": told})
            self.pass_time(params["arguments"]["wait_s"])
        if "id" in message:
            self.say(process, {"id": message["id"], "result": RESULT})

    def say(self, process: SimProcess, message: dict[str, object]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        process.output.write((line,), math.inf)

    def ask(self, data: bytes, method: str = "POST") -> Answer:
        answers: list[Answer] = []

        def client() -> None:
            connection = VirtualConnection(self)
            answers.append(connection.ask(data, method))
            connection.close()

        self.spawn("client", client)
        assert self.run_until(lambda: bool(answers), 300.0)
        return answers[0]

    def session(self) -> str:
        id = self.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        return id.decode()

    def call(self, session: str, wait_s: float = 0.0) -> Answer:
        params = {"name": "t", "arguments": {"wait_s": wait_s}, "_meta": {"progressToken": 7}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self.ask(request(message, session=session))

    @property
    def rests(self) -> bool:
        return bool(self.plane.upstream.ref._own._children.rests)  # type: ignore


@pytest.mark.parametrize("mode", SHARED)
def test_answer_that_came_before_a_rest_can_be_read_again_after_it(mode: StdioMode) -> None:
    """MCP-S-15: nobody knows how much of a stream has arrived; its process has ended since."""
    scene = Scene(mode)
    session = scene.session()
    answer = scene.call(session)
    id = answer.body.split(b"id: ", 1)[1].split(b"\n", 1)[0].decode()
    assert scene.run_until(lambda: scene.rests, 3 * IDLE_S)
    scene.run(1.0)
    assert not scene.running
    again = scene.ask(request(None, "GET", session, fields={"Last-Event-ID": id}), "GET")
    assert [x.get("result") for x in again.messages][-1] == RESULT, again
    scene.run(120.0)
    assert not scene.plane.upstream.ref._own.children, "it is not kept for ever"  # type: ignore
    assert not scene.errors


@pytest.mark.parametrize("mode", SHARED)
def test_check_of_processes_that_rest_neither_wakes_nor_blames_them(mode: StdioMode) -> None:
    """One that does not want to end says nothing any more."""
    scene = Scene(mode, stubborn=True)
    use = scene.plane.use
    checker = SharedChecker(scene, scene.plane.upstream, scene.plane.processes, use)
    verdicts: list[Verdict] = []
    assert scene.run_until(lambda: scene.rests, 3 * IDLE_S)
    for _ in range(2):
        before = len(verdicts)
        scene.spawn("check", lambda: verdicts.append(checker.check(scene.now_s() + 3.0).verdict))
        assert scene.run_until(lambda before=before: len(verdicts) > before, 10.0)
        assert scene.running == (1 if not before else 0)
        scene.run(30.0)
    assert verdicts == [Verdict.WELL] * 2
    assert scene.rests and not scene.errors


@pytest.mark.parametrize("mode", SHARED)
def test_stream_that_has_just_ended_is_use_though_nobody_saw_it(mode: StdioMode) -> None:
    """It was opened after one look, and ended before the next."""
    scene = Scene(mode)
    session = scene.session()
    scene.call(session, IDLE_S * 0.8)
    scene.run(IDLE_S * 0.95)
    assert not scene.rests
    assert scene.run_until(lambda: scene.rests, 2 * IDLE_S)

"""A server on stdio that hangs is found out by its calls and replaced; one that is slow is not.

FLT-U4, in every mode, from the listener to the pipes.
"""

from __future__ import annotations

import json
import math

import pytest

from proxy_actors.gateway.checks import SharedChecker
from proxy_actors.messages.health import Verdict
from proxy_actors.options import StdioMode
from proxy_actors.policy.liveness import PING_S
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.sim.upstream import LineReader
from tests.sim.virtual import PROXY, Answer, VirtualConnection, call, initialize, request
from tests.stdio_plane import StdioPlane

CALL_S = 60.0
RESULT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
MODES = list(StdioMode)


class Scene(SimWorld):
    """A proxy, and a server of which a call says what it does."""

    def __init__(self, mode: StdioMode) -> None:
        super().__init__(1, Faults(fragment=0.0))
        self.starts = self.pings = 0
        self.deaf = False
        self.programs["server"] = self.serve
        self.plane = StdioPlane(
            self, mode, ChildCommand(("server",), {}), MemoryStore(), PROXY, CALL_S
        )
        self.plane.start()
        self.run(1.0)

    def serve(self, process: SimProcess) -> int:
        self.starts += 1
        reader = LineReader(process.input)
        while line := reader.line(math.inf):
            if self.deaf:
                self.waiter().wait(math.inf)
            message = json.loads(line)
            method = message.get("method")
            if method == "tools/call":
                name = message["params"]["arguments"]["do"][0]
                if name == "hang":
                    self.waiter().wait(math.inf)
                elif name == "slow":  # and nothing else meanwhile
                    self.pass_time(CALL_S + PING_S * 0.9)
                elif name == "forget":
                    continue
            elif method == "ping":
                self.pings += 1
            if "id" in message:
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": RESULT}
                process.output.write((json.dumps(answer).encode() + b"\n",), math.inf)
        return 0

    def ask(self, data: bytes) -> Answer:
        answers: list[Answer] = []

        def client() -> None:
            connection = VirtualConnection(self)
            answers.append(connection.ask(data))
            connection.close()

        self.spawn("client", client)
        assert self.run_until(lambda: bool(answers), 3 * CALL_S)
        return answers[0]

    def session(self) -> str:
        id = self.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        return id.decode()

    def end(self) -> None:
        self.run(120.0)
        assert not self.errors, self.errors


@pytest.mark.parametrize("mode", MODES)
def test_server_that_hangs_is_replaced(mode: StdioMode) -> None:
    """Its call was told the truth; the next client, or the same one after a 404, is served."""
    scene = Scene(mode)
    session = scene.session()
    starts = scene.starts
    hung = scene.ask(request(call(1, "hang"), session=session))
    assert hung.error["data"]["reason"] == "upstream-timeout"
    scene.run(PING_S + 15.0)
    if mode is not StdioMode.SESSION:
        assert scene.starts == starts + 1
    else:  # another stands ready
        assert scene.ask(request(call(2, "answer"), session=session)).status == 404
        session = scene.session()
    assert scene.ask(request(call(3, "answer"), session=session)).message["result"]
    scene.end()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["slow", "forget"])
def test_server_that_lives_is_left_in_peace(mode: StdioMode, what: str) -> None:
    """One that does one thing at a time answers the ping when it is done, after its call's time.

    One that has forgotten the call answers at once; the answer to the ping reaches no client.
    """
    scene = Scene(mode)
    session = scene.session()
    starts = scene.starts
    late = scene.ask(request(call(1, what), session=session))
    assert late.error["data"]["reason"] == "upstream-timeout"
    scene.run(PING_S + 15.0)
    assert (scene.starts, scene.pings) == (starts, 1)
    assert scene.ask(request(call(2, "answer"), session=session)).message["result"]
    scene.end()


SHARED = [StdioMode.SHARED, StdioMode.POOL]


def checked(scene: Scene) -> Verdict:
    """Make one check, as a guard has it made."""
    checker = SharedChecker(scene, scene.plane.upstream, scene.plane.processes)
    verdicts: list[Verdict] = []
    scene.spawn("check", lambda: verdicts.append(checker.check(scene.now_s() + 3.0).verdict))
    assert scene.run_until(lambda: bool(verdicts), 10.0)
    return verdicts[0]


@pytest.mark.parametrize("mode", SHARED)
def test_check_has_a_server_replaced_that_hangs_without_a_call(mode: StdioMode) -> None:
    """All processes of the upstream are; each check waits for as long as it may."""
    scene = Scene(mode)
    starts = scene.starts
    assert checked(scene) is Verdict.WELL
    scene.deaf = True
    assert [checked(scene) for _ in range(3)] == [Verdict.FAILED] * 3
    assert scene.starts == starts
    scene.run(PING_S - 15.0)
    scene.deaf = False
    scene.run(20.0)
    assert scene.starts == 2 * starts
    assert checked(scene) is Verdict.WELL
    scene.end()


@pytest.mark.parametrize("mode", SHARED)
def test_check_says_nothing_of_a_server_that_is_at_work(mode: StdioMode) -> None:
    scene = Scene(mode)
    session = scene.session()
    busy = 4 if mode is StdioMode.POOL else 1
    for n in range(busy):
        data = request(call(n, "slow"), session=session)
        scene.spawn("client", lambda data=data: VirtualConnection(scene).ask(data))  # type: ignore
    scene.run(5.0)
    pings = scene.pings
    assert checked(scene) is Verdict.UNKNOWN
    assert scene.pings == pings

"""What servers say of their tools is believed until they say that it is another, however they do.

RELIABILITY 1.3. That it holds over Streamable HTTP, tests/gateway/test_retrying.py says.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from proxy_actors.app import App
from proxy_actors.config.model import Config
from proxy_actors.config.resilience import Retries
from proxy_actors.config.upstreams import Upstream
from proxy_actors.gateway.guarded import GuardedForwarder
from proxy_actors.options import OnSessionLost, StdioMode, Transport
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.sim_world import Faults, SimProcess
from tests.gateway.endpoint_scene import EndpointScene
from tests.gateway.scene import ClientWorld
from tests.legacy_server import STREAM, LegacyServer
from tests.plane import DATE, UPSTREAM
from tests.sim.upstream import LineReader
from tests.sim.virtual import (
    VERSION,
    Answer,
    SimLink,
    SimSignal,
    VirtualConnection,
    call,
    initialize,
    request,
)

LOOK = {"name": "t", "annotations": {"readOnlyHint": True}}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
LIST = {"jsonrpc": "2.0", "id": "list", "method": "tools/list"}
RESULTS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": VERSION, "capabilities": {"tools": {}},
        "serverInfo": {"name": "s", "version": "1"},
    },
    "tools/list": {"tools": [LOOK]},
    "tools/call": {"content": []},
}  # fmt: skip


class Program:
    """A server on stdio with one tool, which may end its process.

    Attributes:
        calls: how often the tool was called.
        changes: whether the next call has the list changed.
        ends: how many calls the process ends in.
    """

    def __init__(self) -> None:
        self.calls = self.ends = 0
        self.changes = False

    def run(self, process: SimProcess) -> int:
        """Be a program of the simulated world."""
        reader = LineReader(process.input)
        while line := reader.line(math.inf):
            message = json.loads(line)
            said: list[Any] = []
            if message["method"] == "tools/call":
                self.calls += 1
                if self.ends:
                    self.ends -= 1
                    return 1
                if self.changes:
                    said.append(CHANGED)
            if "id" in message:
                result = RESULTS[message["method"]]
                said.append({"jsonrpc": "2.0", "id": message["id"], "result": result})
            lines = [json.dumps(x).encode() + b"\n" for x in said]
            process.output.write((b"".join(lines),), math.inf)
        return 0


class HintsScene(ClientWorld):
    """The application before one server that is believed."""

    def __init__(self, **settings: Any) -> None:  # Any: the settings have types of their own
        super().__init__(1, Faults(fragment=0.0))
        self.program = Program()
        self.programs["server"] = self.program.run
        self.old = LegacyServer(
            self.pass_time, lambda: SimSignal(self), lambda f: self.spawn("old server", f)
        )
        self.listen("old.test", 80, lambda stream: self.old.serve(SimLink(stream)))
        # Long enough for a process to be started in between.
        retries = Retries(trust_annotations=True, base_ms=20_000, cap_ms=20_000)
        upstream = Upstream(retries=retries, **settings)
        config = Config(upstreams={UPSTREAM: upstream})
        self.app = App(self, config, MemoryStore(), lambda: DATE, {})
        self.app.start(self)
        self.run(1.0)
        id = self.ask(initialize()).field(b"mcp-session-id")
        assert id is not None
        self.session = id.decode()

    def tell(self, message: Any) -> bool:
        """Be the root's parent."""
        return True

    def ask(self, message: Any, session: str | None = None) -> Answer:
        """Send a request on a connection of its own."""
        data = request(message, session=session)
        answer: Answer = self.do(lambda: VirtualConnection(self).ask(data))
        return answer

    def list_tools(self) -> None:
        assert self.ask(LIST, self.session).message["result"]["tools"] == [LOOK]

    def call(self, n: int) -> Answer:
        return self.ask(call(n), self.session)


def believes(scene: HintsScene | EndpointScene) -> bool:
    """Whether the tool may be called again where it may have been executed."""
    forwarder = scene.app.wiring.routes.by_name[UPSTREAM].forwarder
    assert isinstance(forwarder, GuardedForwarder)
    message = jsonrpc.admit(json.dumps(call(1)).encode())
    assert isinstance(message, Message)
    return forwarder._retrier.reads(message)


@pytest.mark.parametrize("mode", list(StdioMode))
def test_hints_of_a_process_hold_until_it_says_that_its_list_is_another(mode: StdioMode) -> None:
    scene = HintsScene(command=("server",), stdio=mode)
    scene.list_tools()
    assert believes(scene)
    scene.program.changes = True
    assert scene.call(1).status == 200
    assert not believes(scene)
    scene.list_tools()
    assert believes(scene)
    assert not scene.errors


@pytest.mark.parametrize("changed, ends, calls", [(False, 1, 2), (True, 1, 1), (False, 2, 2)])
def test_call_in_which_a_process_ended_is_made_again_where_its_tool_is_known(
    changed: bool, ends: int, calls: int
) -> None:
    """By what was known when it failed: of the next process nothing is, until it has been asked."""
    scene = HintsScene(command=("server",), stdio=StdioMode.SHARED)
    scene.list_tools()
    scene.program.changes = changed
    assert scene.call(1).status == 200
    scene.program.calls, scene.program.ends = 0, ends
    answer = scene.call(2)
    assert scene.program.calls == calls
    if calls > ends:
        assert answer.status == 200
    else:
        data = answer.error["data"]
        assert (data["reason"], data["executed"]) == ("process-exited", "unknown")


def test_process_that_is_started_anew_may_have_other_tools() -> None:
    scene = HintsScene(command=("server",), stdio=StdioMode.SHARED)
    scene.list_tools()
    scene.program.ends = 3
    scene.call(1)
    scene.run(60.0)
    assert not believes(scene)
    scene.list_tools()
    assert believes(scene)


def test_hints_of_an_old_server_hold_until_it_says_that_its_list_is_another() -> None:
    scene = HintsScene(url=f"http://old.test{STREAM}", transport=Transport.SSE)
    listed = {"jsonrpc": "2.0", "id": "list", "result": RESULTS["tools/list"]}
    steps = {"_meta": {"do": [f"raw data: {json.dumps(listed)}\\n\\n"]}}
    scene.ask({**LIST, "params": steps}, scene.session)
    assert believes(scene)
    scene.do(lambda: scene.old.session.send(CHANGED))
    scene.run(1.0)
    assert not believes(scene)


def test_server_that_has_lost_its_sessions_may_have_other_tools() -> None:
    scene = EndpointScene(
        "a", retries=Retries(trust_annotations=True), on_session_lost=OnSessionLost.REINITIALIZE
    )
    session = scene.session()
    scene.servers["a"].tools = [LOOK]
    scene.ask(LIST, session)
    assert believes(scene)
    scene.servers["a"].lose_sessions()
    scene.ask({"jsonrpc": "2.0", "id": 1, "method": "ping"}, session)
    assert not believes(scene)


def test_change_is_heard_within_a_call_that_may_have_no_stream() -> None:
    scene = EndpointScene("a", retries=Retries(trust_annotations=True), streams_max=1)
    session = scene.session()
    scene.servers["a"].tools = [LOOK]
    scene.ask(LIST, session)
    holds = request(call(1, "sse", "note", "pause 50", "answer", "end"), session=session)
    scene.spawn("client", lambda: VirtualConnection(scene).ask(holds))
    scene.run(1.0)
    assert believes(scene)
    steps = ("sse", f"event {json.dumps(CHANGED)}", "answer", "end")
    answer = scene.ask(call(2, *steps), session)
    assert answer.status == 200 and not answer.is_stream
    assert not believes(scene)

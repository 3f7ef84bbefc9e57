"""The application in the simulated world, before a server to which sessions have channels."""

from __future__ import annotations

import json
import math
from typing import Any

from proxy_actors.app import App
from proxy_actors.config.model import Config
from proxy_actors.config.upstreams import Upstream
from proxy_actors.gateway.guarded import GuardedForwarder
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.sim_world import Faults, SimProcess
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
    note,
    request,
)

LOOK = {"name": "t", "annotations": {"readOnlyHint": True}}
COMMAND = ("server",)
OLD_URL = f"http://old.test{STREAM}"
RESULTS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": VERSION, "capabilities": {"tools": {}},
        "serverInfo": {"name": "s", "version": "1"},
    },
    "tools/list": {"tools": [LOOK]},
    "tools/call": {"content": []},
}  # fmt: skip


class Program:
    """A server on stdio with one tool, which does what the call says, and nothing else meanwhile.

    Attributes:
        calls: how often the tool was called.
        ends: in how many calls the process ends, whatever they say.
    """

    def __init__(self) -> None:
        self.calls = self.ends = 0

    def run(self, process: SimProcess) -> int:
        """Be a program of the simulated world."""
        reader = LineReader(process.input)
        while line := reader.line(math.inf):
            message = json.loads(line)
            steps = ["answer"] if "id" in message else []
            if message["method"] == "tools/call":
                self.calls += 1
                steps = message["params"]["arguments"].get("do", steps)
                if self.ends:
                    self.ends -= 1
                    return 1
            said = [self._said(step, message) for step in steps if step != "end"]
            process.output.write((b"".join(said),), math.inf)
            if "end" in steps:
                return 1
        return 0

    def _said(self, step: str, message: Any) -> bytes:
        if step == "answer":
            result = RESULTS[message["method"]]
            said = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        elif step == "note":
            token = message["params"]["_meta"]["progressToken"]
            said = note("notifications/progress", progress=1, progressToken=token)
        else:
            said = note("notifications/tools/list_changed")
        return json.dumps(said).encode() + b"\n"


class ChannelScene(ClientWorld):
    """The application, a program and an old server, and one session at one of them."""

    def __init__(self, **settings: Any) -> None:  # Any: the settings have types of their own
        super().__init__(1, Faults(fragment=0.0))
        self.program = Program()
        self.programs[COMMAND[0]] = self.program.run
        self.old = LegacyServer(
            self.pass_time, lambda: SimSignal(self), lambda f: self.spawn("old server", f)
        )
        self.listen("old.test", 80, lambda stream: self.old.serve(SimLink(stream)))
        config = Config(upstreams={UPSTREAM: Upstream(**settings)})
        self.app = App(self, config, MemoryStore(), lambda: DATE, {})
        self.app.start(self)
        self.run(1.0)
        id = self._ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        self.session = id.decode()

    def tell(self, message: Any) -> bool:
        """Be the root's parent."""
        return True

    @property
    def forwarder(self) -> GuardedForwarder:
        """What stands before the server."""
        forwarder = self.app.wiring.routes.by_name[UPSTREAM].forwarder
        assert isinstance(forwarder, GuardedForwarder)
        return forwarder

    def ask(self, message: Any, method: str = "POST") -> Answer:
        """Send a request of the session on a connection of its own."""
        return self._ask(request(message, method, session=self.session), method)

    def call(self, n: int, *steps: str) -> Answer:
        """Call the tool."""
        return self.ask(called(n, *steps))

    def begin(self, *calls: Any) -> list[Answer]:
        """Call the tool, and let time pass; return the answers that have come, and will."""
        answers: list[Answer] = []
        for message in calls:
            data = request(message, session=self.session)
            self.spawn("client", lambda data=data: answers.append(self._sent(data)))
        self.run(1.0)
        return answers

    def _ask(self, data: bytes, method: str = "POST") -> Answer:
        answer: Answer = self.do(lambda: self._sent(data, method))
        return answer

    def _sent(self, data: bytes, method: str = "POST") -> Answer:
        connection = VirtualConnection(self)
        answer = connection.ask(data, method)
        connection.close()
        return answer


def called(n: int, *steps: str) -> Any:
    """A call of the tool that asks for progress."""
    message = call(n, *steps)
    message["params"]["_meta"] = {"progressToken": n}
    return message

"""One child for everybody: clients that all count alike never get another's answer.

THR-T4 (CVE-2026-25536), MCP-G-1, G-3, X-6; FLT-C11. From the listener to the pipes of one child.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxy_actors.options import StdioMode
from proxy_actors.storage.memory import MemoryStore
from proxy_actors.world.base import ChildCommand
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.sim.upstream import LineReader
from tests.sim.virtual import PROXY, Answer, VirtualConnection, initialize, note, request
from tests.stdio_plane import StdioPlane

CLIENTS = 1000
LOOK_ALIKE = (0, "0", 1, "1", "", -7, 2**63, "caf\u00e9", '"', "\\u0030")


class Crowd(SimWorld):
    """A proxy, and a server that answers when so many calls have come; then in any order."""

    def __init__(self, calls: int, version: str = "2025-11-25") -> None:
        super().__init__(1, Faults(fragment=0.0))
        self._version = version
        self._calls = calls
        self.ids: list[Any] = []
        self.programs["server"] = self.serve
        self.store = MemoryStore()
        self.plane = StdioPlane(
            self, StdioMode.SHARED, ChildCommand(("server",), {}), self.store, PROXY
        )
        self.plane.start()
        self.run(1.0)

    def serve(self, process: SimProcess) -> int:
        """Tell each call of progress, all of them, before the first is answered."""
        reader = LineReader(process.input)
        waiting = []
        while line := reader.line(math.inf):
            message = json.loads(line)
            if message["method"] == "initialize":
                result = {"protocolVersion": self._version, "capabilities": {}, "serverInfo": {}}
                self.say(process, {"jsonrpc": "2.0", "id": message["id"], "result": result})
            elif message["method"] == "tools/call":
                self.ids.append(message["id"])
                waiting.append(message)
            if len(waiting) == self._calls:
                for telling in (self.tell_progress, self.answer):
                    self.chance.shuffle(waiting)
                    for call in waiting:
                        self.say(process, telling(call))
                waiting = []
        return 0

    def say(self, process: SimProcess, message: Any) -> None:
        process.output.write((json.dumps(message).encode() + b"\n",), math.inf)

    def tell_progress(self, call: Any) -> Any:
        params = call["params"]
        token = params["_meta"]["progressToken"]
        return note(
            "notifications/progress", progressToken=token, progress=1, message=params["name"]
        )

    def answer(self, call: Any) -> Any:
        result = {"content": [{"type": "text", "text": call["params"]["name"]}]}
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    def ask_all(self, id_of: Callable[[int], Any]) -> list[list[Any]]:
        """Have every client call once in a session of its own; return what each has got."""
        got: dict[int, list[Any]] = {}

        def client(number: int) -> None:
            connection = VirtualConnection(self)
            session = connection.ask(request(initialize())).field(b"mcp-session-id")
            assert session is not None
            id = id_of(number)
            params = {"name": f"client {number}", "_meta": {"progressToken": id}}
            call = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
            got[number] = connection.ask(request(call, session=session.decode())).messages
            connection.close()

        for number in range(self._calls):
            self.spawn("client", partial(client, number))
        assert self.run_until(lambda: len(got) == self._calls)
        self.run(60.0)
        assert not self.errors, self.errors
        assert self.plane.leftovers() == {}
        return [got[number] for number in range(self._calls)]


@pytest.mark.parametrize(
    ("asked", "told"),
    [("2024-11-05", "2024-11-05"), ("2025-03-26", "2025-03-26"), ("2025-06-18", "2025-06-18"),
     ("2025-11-25", "2025-06-18"), ("2026-07-28", "2025-06-18"), ("1999-01-01", "2025-06-18")],
)  # fmt: skip
def test_client_is_told_the_older_revision_of_its_own_and_the_servers(
    asked: str, told: str
) -> None:
    """MCP-S-1; the rest of what the server says of itself is told as it is."""
    crowd = Crowd(1, "2025-06-18")
    answers: list[Answer] = []

    def client() -> None:
        answers.append(VirtualConnection(crowd).ask(request(initialize(asked))))

    crowd.spawn("client", client)
    assert crowd.run_until(lambda: bool(answers))
    assert answers[0].message["result"] == {
        "protocolVersion": told, "capabilities": {}, "serverInfo": {}
    }
    (row,) = crowd.store.rows()
    assert row.session.version == told


def own(number: int, id: Any) -> list[Any]:
    """What the client is to get, and nothing else: in the JSON of its own id and token."""
    name = f"client {number}"
    progress = {"progressToken": id, "progress": 1, "message": name}
    return [
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress},
        {"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": name}]}},
    ]


def test_thousand_clients_that_all_use_id_0_each_get_their_own_answer() -> None:
    """All of them in flight at once at one child, which sees each under another id."""
    crowd = Crowd(CLIENTS)
    got = crowd.ask_all(lambda number: 0)
    assert got == [own(number, 0) for number in range(CLIENTS)]
    assert len(set(crowd.ids)) == CLIENTS


def test_ids_that_only_look_alike_keep_value_and_type() -> None:
    """1 and "1" are two ids, to whoever counts in one of them."""
    got = Crowd(len(LOOK_ALIKE)).ask_all(LOOK_ALIKE.__getitem__)
    assert [json.dumps(messages, sort_keys=True) for messages in got] == [
        json.dumps(own(number, id), sort_keys=True) for number, id in enumerate(LOOK_ALIKE)
    ]

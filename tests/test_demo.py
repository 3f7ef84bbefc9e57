"""The demo server over real pipes: MCP-S-1, MCP-S-24, MCP-S-25, MCP-I-1, MCP-I-2 seen as server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy_actors import demo

AS_MODULE = (sys.executable, "-m", "proxy_actors.demo")
AS_SCRIPT = (sys.executable, "-S", "-I", str(Path(demo.__file__)))


class Peer:
    """A client of the demo server, holding its process's pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    def write(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def tell(self, message: object) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def read(self) -> Any:  # Any: JSON
        return json.loads(self._stdout.readline())

    def ask(self, method: str, params: object = None, request_id: int | str = 1) -> Any:
        """Send a request and return the next message (Any: JSON)."""
        request = {"jsonrpc": "2.0", "id": request_id, "method": method}
        self.tell(request if params is None else {**request, "params": params})
        return self.read()

    def call(self, tool: str, request_id: int | str = 1, **arguments: object) -> Any:
        """Call a tool and return the next message (Any: JSON)."""
        return self.ask("tools/call", {"name": tool, "arguments": arguments}, request_id)

    def open(self, revision: str = "2025-11-25") -> Any:
        """Shake hands and return the server's answer (Any: JSON)."""
        params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test"}}
        answer = self.ask("initialize", params, "hello")
        self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server just started; its end is checked after each test."""
    with subprocess.Popen(AS_MODULE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Peer(process)
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("command", [AS_MODULE, AS_SCRIPT], ids=["module", "script"])
def test_it_starts_as_a_module_and_as_a_lone_script(command: tuple[str, ...]) -> None:
    """It needs nothing but the standard library."""
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    done = subprocess.run(command, input=line, capture_output=True, check=True)
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert done.stderr == b""


@pytest.mark.parametrize("revision", demo.REVISIONS)
def test_a_supported_revision_is_echoed(peer: Peer, revision: str) -> None:
    """MCP-S-1."""
    result = peer.open(revision)["result"]
    assert result["protocolVersion"] == revision
    assert result["serverInfo"]["name"] == "proxy-actors-demo"
    assert result["capabilities"] == {"tools": {}}


@pytest.mark.parametrize("revision", ["2026-07-28", "1.0", "", None])
def test_an_unsupported_revision_is_answered_with_the_latest(peer: Peer, revision: Any) -> None:
    """MCP-S-1, MCP-D-7: the newest revision cannot be negotiated by a handshake."""
    assert peer.open(revision)["result"]["protocolVersion"] == "2025-11-25"


def test_a_ping_is_answered_before_the_handshake(peer: Peer) -> None:
    """MCP-S-24."""
    assert peer.ask("ping", request_id="p")["result"] == {}


def test_tools_are_refused_before_the_handshake(peer: Peer) -> None:
    """Otherwise a client that probes for a newer revision would take it for one."""
    assert peer.ask("tools/list")["error"]["code"] == -32600


def test_every_listed_tool_can_be_called(peer: Peer) -> None:
    """The list and the table of tools are one."""
    peer.open()
    listed = [tool["name"] for tool in peer.ask("tools/list")["result"]["tools"]]
    assert listed == ["echo", "add", "slow", "whoami"]
    for name in listed:
        assert "result" in peer.call(name)


@pytest.mark.parametrize("message", ["", "hello", "zwei\nZeilen\r\n", "\u2028 é 漢 🎭", "\ud800"])
def test_echo_returns_the_message(peer: Peer, message: str) -> None:
    """MCP-I-1: whatever it holds, the answer is one line."""
    peer.open()
    content = peer.call("echo", message=message)["result"]["content"]
    assert content == [{"type": "text", "text": message}]


@pytest.mark.parametrize(
    ("a", "b", "total"), [(1, 2, "3"), (0.5, 0.25, "0.75"), (10**30, 1, f"{10**30 + 1}")]
)
def test_add_adds(peer: Peer, a: float, b: float, total: str) -> None:
    """Integers stay exact."""
    peer.open()
    assert peer.call("add", a=a, b=b)["result"]["content"][0]["text"] == total


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("echo", {}),
        ("echo", {"message": 5}),
        ("add", {"a": 1, "b": "2"}),
        ("add", {"a": True, "b": 2}),
        ("add", {"a": 10**400, "b": 0.5}),
        ("slow", {"seconds": 10.5}),
        ("slow", {"seconds": -1}),
        ("slow", {"seconds": float("nan")}),
    ],
)
def test_bad_arguments_are_told_in_the_result(
    peer: Peer, tool: str, arguments: dict[str, object]
) -> None:
    """MCP 2025-11-25 server/tools: input errors are for the model, as isError."""
    peer.open()
    assert peer.call(tool, **arguments)["result"]["isError"] is True
    assert peer.ask("ping")["result"] == {}


def test_whoami_names_the_process(peer: Peer) -> None:
    """So one can see which process of a pool answered."""
    peer.open()
    text = peer.call("whoami")["result"]["content"][0]["text"]
    assert text.startswith("proxy-actors-demo ") and str(peer.process.pid) in text


def test_slow_sends_progress_to_who_asked_for_it(peer: Peer) -> None:
    """Progress rises, and ends before the answer."""
    peer.open()
    params = {
        "name": "slow", "arguments": {"seconds": 0.02}, "_meta": {"progressToken": "token"}
    }
    messages = [peer.ask("tools/call", params, 7), *(peer.read() for _ in range(4))]
    assert [m["params"] for m in messages[:4]] == [
        {"progressToken": "token", "progress": done, "total": 4} for done in (1, 2, 3, 4)
    ]
    assert messages[4]["id"] == 7 and messages[4]["result"]["content"][0]["text"] == "waited 0.02 s"


def test_slow_without_a_token_sends_its_answer_only(peer: Peer) -> None:
    """Progress is for who asked for it."""
    peer.open()
    assert peer.call("slow", request_id=8, seconds=0.01)["id"] == 8


def test_other_calls_are_answered_while_a_slow_one_runs(peer: Peer) -> None:
    """MCP-S-24: one client's wait is not everybody's."""
    peer.open()
    peer.tell(_call("slow", 1, seconds=10))
    assert peer.call("echo", request_id=2, message="now")["id"] == 2


def test_a_cancelled_call_is_not_answered(peer: Peer) -> None:
    """MCP notifications/cancelled: the receiver sends no response."""
    peer.open()
    peer.tell(_call("slow", 1, seconds=0.05))
    peer.tell(
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    )
    assert peer.call("slow", request_id=2, seconds=0.1)["id"] == 2


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("server/discover", {}, -32601),
        ("resources/list", {}, -32601),
        ("tools/list", [], -32602),
        ("tools/list", {"cursor": "x"}, -32602),
        ("tools/call", {"name": "nope"}, -32602),
        ("tools/call", {"name": ["echo"]}, -32602),
        ("tools/call", {"name": "echo", "arguments": []}, -32602),
    ],
)
def test_what_it_does_not_know_is_refused(
    peer: Peer, method: str, params: object, code: int
) -> None:
    """MCP-D: an unknown method sends a probing client back to initialize."""
    peer.open()
    answer = peer.ask(method, params, "q")
    assert (answer["id"], answer["error"]["code"]) == ("q", code)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"no json", -32700),
        (b"\xff\xfe{", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"5", -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
    ],
)
def test_a_line_that_is_no_message_ends_nothing(peer: Peer, line: bytes, code: int) -> None:
    """JSON-RPC 2.0 section 5.1."""
    peer.write(line + b"\n")
    answer = peer.read()
    assert (answer["id"], answer["error"]["code"]) == (None, code)
    assert peer.ask("ping")["result"] == {}


def test_blank_lines_notifications_and_responses_get_no_answer(peer: Peer) -> None:
    """JSON-RPC 2.0 section 4.1."""
    peer.write(b"\n  \r\n")
    peer.tell({"jsonrpc": "2.0", "method": "notifications/whatever"})
    peer.tell({"jsonrpc": "2.0", "id": 9, "result": {}})
    assert peer.ask("ping", request_id="next")["id"] == "next"


def test_a_batch_is_taken_by_the_revision_that_has_them(peer: Peer) -> None:
    """MCP-S-12."""
    peer.open("2025-03-26")
    peer.tell([{"jsonrpc": "2.0", "id": n, "method": "ping"} for n in (1, 2)])
    assert [peer.read()["id"], peer.read()["id"]] == [1, 2]


def test_a_batch_is_refused_by_later_revisions(peer: Peer) -> None:
    """MCP-S-13."""
    peer.open("2025-06-18")
    peer.tell([{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
    assert peer.read()["error"]["code"] == -32600


def test_a_message_in_pieces_and_two_in_one_piece_are_read(peer: Peer) -> None:
    """MCP-I-1: lines are the frames, whatever the pipe made of them."""
    peer.write(b'{"jsonrpc":"2.0",')
    peer.write(b'"id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"ping"}\n{"jsonrpc"')
    peer.write(b':"2.0","id":3,"method":"ping"}\n')
    assert [peer.read()["id"] for _ in range(3)] == [1, 2, 3]


def test_a_message_larger_than_a_pipe_returns_whole(peer: Peer) -> None:
    """MCP-I-9."""
    peer.open()
    message = "x" * 1_000_000
    assert peer.call("echo", message=message)["result"]["content"][0]["text"] == message


def test_the_end_of_input_ends_it_in_the_middle_of_a_call(peer: Peer) -> None:
    """MCP-I-4: the server leaves when its client does (the fixture checks the exit code)."""
    peer.open()
    peer.tell(_call("slow", 1, seconds=10))
    rest, _ = peer.process.communicate()
    assert rest == b""


def test_a_line_without_end_is_given_up() -> None:
    """What is not yet a line is bounded."""
    endless = b"x" * (demo.LINE_BYTES_MAX + 2 * demo.READ_BYTES_MAX)
    done = subprocess.run(AS_MODULE, input=endless, capture_output=True, check=False)
    assert done.returncode == 1 and b"longer than" in done.stderr


def _call(tool: str, request_id: int, **arguments: object) -> dict[str, object]:
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }

"""A small MCP server on standard input and output, to try the proxy with and to test it against.

Owns nothing that outlives a call: one thread, one loop, one table of calls in progress. It is a
program of its own: the standard library is all it needs, the rest of the package never imports it,
and it never imports the rest (so `python -S -I demo.py` works too). It speaks the session era of
MCP, revisions 2024-11-05 to 2025-11-25, one JSON-RPC message a line.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

SERVER_INFO = {"name": "proxy-actors-demo", "version": "1.0.0"}
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
REVISION_LATEST = REVISIONS[-1]
REVISION_WITH_BATCHES = "2025-03-26"

LINE_BYTES_MAX = 16 * 1024 * 1024
READ_BYTES_MAX = 1024 * 1024
SLOW_S_MAX = 10.0
PROGRESS_STEPS = 4

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

Json = dict[str, Any]  # Any: whatever a JSON object may hold
Send = Callable[[Json], None]


class CallError(Exception):
    """A request that is answered with a JSON-RPC error instead of a result."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class ArgumentError(Exception):
    """Arguments that a tool cannot work with: answered inside the result, for the model to read."""


class SlowCall:
    """A `slow` call in progress: due in equal steps, a progress notification after each.

    Args:
        request_id: the id to answer.
        started_s: when it began, in monotonic seconds.
        duration_s: how long it takes, 0 to 10 seconds.
        token: the caller's progress token, or None.
    """

    def __init__(
        self, request_id: str | int, started_s: float, duration_s: float, token: str | int | None
    ) -> None:
        self.request_id = request_id
        self.duration_s = duration_s
        self._started_s = started_s
        self._token = token
        self._steps_done = 0

    @property
    def due_s(self) -> float:
        """When the next step is due, in monotonic seconds."""
        return self._started_s + self.duration_s * (self._steps_done + 1) / PROGRESS_STEPS

    def step(self) -> Json | None:
        """Take the next step: a progress notification, or None when nobody asked for it."""
        self._steps_done += 1
        if self._token is None:
            return None
        progress = {"progress": self._steps_done, "total": PROGRESS_STEPS}
        return _notification("notifications/progress", {"progressToken": self._token, **progress})

    @property
    def done(self) -> bool:
        """Whether the last step was taken."""
        return self._steps_done == PROGRESS_STEPS


class DemoServer:
    """One session with one client: messages in, messages out through `send`.

    Args:
        send: takes each message to write.
        now_s: the monotonic clock, in seconds.
    """

    def __init__(self, send: Send, now_s: Callable[[], float]) -> None:
        self._send = send
        self._now_s = now_s
        self._revision: str | None = None
        self._slow_calls: dict[str | int, SlowCall] = {}

    def receive_line(self, line: bytes | bytearray) -> None:
        """Act on one line of input; a line that is not a message is answered with an error."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._send(_error(None, PARSE_ERROR, "the line is not JSON"))
            return
        if isinstance(message, list) and message and self._revision == REVISION_WITH_BATCHES:
            for member in message:
                self._receive(member)
        else:
            self._receive(message)

    def due_s(self) -> float | None:
        """When `advance` has something to do, in monotonic seconds; None when nothing is due."""
        return min((call.due_s for call in self._slow_calls.values()), default=None)

    def advance(self) -> None:
        """Take every step that is due: send progress, and answer the calls that are done."""
        now_s = self._now_s()
        for call in list(self._slow_calls.values()):
            while not call.done and call.due_s <= now_s:
                notification = call.step()
                if notification is not None:
                    self._send(notification)
            if call.done:
                del self._slow_calls[call.request_id]
                self._send(_result(call.request_id, _text(f"waited {call.duration_s:g} s")))

    def _receive(self, message: object) -> None:
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self._send(_error(None, INVALID_REQUEST, "not a JSON-RPC 2.0 message"))
            return
        method = message.get("method")
        if not isinstance(method, str):
            return  # a response: this server asks nothing, so there is nothing it could answer
        params = message.get("params", {})
        if "id" not in message:
            self._notice(method, params)
            return
        request_id = message["id"]
        if isinstance(request_id, bool) or not isinstance(request_id, (str, int)):
            self._send(_error(None, INVALID_REQUEST, "an id is a string or an integer"))
            return
        try:
            result = self._answer(method, params, request_id)
        except CallError as error:
            self._send(_error(request_id, error.code, str(error)))
        else:
            if result is not None:
                self._send(_result(request_id, result))

    def _notice(self, method: str, params: object) -> None:
        if method == "notifications/cancelled" and isinstance(params, dict):
            request_id = params.get("requestId")
            if isinstance(request_id, (str, int)):
                self._slow_calls.pop(request_id, None)

    def _answer(self, method: str, params: object, request_id: str | int) -> Json | None:
        if method not in ("initialize", "ping", "tools/list", "tools/call"):
            raise CallError(METHOD_NOT_FOUND, f"unknown method {method!r}")
        if not isinstance(params, dict):
            raise CallError(INVALID_PARAMS, "params is an object")
        if method == "initialize":
            return self._initialize(params)
        if method == "ping":
            return {}
        if self._revision is None:
            raise CallError(INVALID_REQUEST, "initialize comes first")
        if method == "tools/list":
            return _list_tools(params)
        return self._call_tool(params, request_id)

    def _initialize(self, params: Json) -> Json:
        asked = params.get("protocolVersion")
        self._revision = asked if asked in REVISIONS else REVISION_LATEST
        return {
            "protocolVersion": self._revision,
            "capabilities": {"tools": {}},
            "serverInfo": SERVER_INFO,
        }

    def _call_tool(self, params: Json, request_id: str | int) -> Json | None:
        name = params.get("name")
        arguments = params.get("arguments", {})
        if not isinstance(name, str) or name not in TOOLS:
            raise CallError(INVALID_PARAMS, f"unknown tool {name!r}")
        if not isinstance(arguments, dict):
            raise CallError(INVALID_PARAMS, "arguments is an object")
        try:
            if name == "slow":
                self._start_slow(params, arguments, request_id)
                return None
            return _text(_call_at_once(name, arguments))
        except ArgumentError as error:
            return {**_text(str(error)), "isError": True}

    def _start_slow(self, params: Json, arguments: Json, request_id: str | int) -> None:
        duration_s = _number(arguments, "seconds")
        if not 0 <= duration_s <= SLOW_S_MAX:
            raise ArgumentError(f"seconds is from 0 to {SLOW_S_MAX:g}")
        meta = params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        if not isinstance(token, (str, int)):
            token = None
        self._slow_calls[request_id] = SlowCall(request_id, self._now_s(), duration_s, token)


def _tool(description: str, **properties: str) -> Json:
    return {
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in properties.items()},
            "required": list(properties),
        },
    }


TOOLS: dict[str, Json] = {
    "echo": _tool("Return the message.", message="string"),
    "add": _tool("Add two numbers.", a="number", b="number"),
    "slow": _tool(
        "Wait for some seconds, 10 at most, with progress if it is asked for.", seconds="number"
    ),
    "whoami": _tool("Name this server and its process."),
}


def _list_tools(params: Json) -> Json:
    if "cursor" in params:
        raise CallError(INVALID_PARAMS, "no such cursor: all tools are on the first page")
    return {"tools": [{"name": name, **tool} for name, tool in TOOLS.items()]}


def _call_at_once(name: str, arguments: Json) -> str:
    if name == "whoami":
        return f"{SERVER_INFO['name']} {SERVER_INFO['version']} (process {os.getpid()})"
    if name == "add":
        return _sum(_number(arguments, "a"), _number(arguments, "b"))
    message = arguments.get("message")
    if not isinstance(message, str):
        raise ArgumentError("message is a string")
    return message


def _sum(a: int | float, b: int | float) -> str:
    try:
        return str(a + b)
    except (OverflowError, ValueError) as error:  # a float too big, or too many digits to print
        raise ArgumentError("the sum is out of range") from error


def _number(arguments: Json, name: str) -> int | float:
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentError(f"{name} is a number")
    return value


def _text(text: str) -> Json:
    return {"content": [{"type": "text", "text": text}]}


def _result(request_id: str | int, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def _error(request_id: str | int | None, code: int, text: str) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def _notification(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def _write(message: Json) -> None:
    # ASCII only: JSON escapes then cover lone surrogates, which no encoding could carry.
    data = memoryview(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")
    while data:
        data = data[os.write(sys.stdout.fileno(), data):]


def _serve(server: DemoServer) -> None:
    """Feed the lines of standard input to the server until the end of input."""
    pending = bytearray()
    while True:
        due_s = server.due_s()
        wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
        readable, _, _ = select.select([sys.stdin], [], [], wait_s)
        server.advance()
        if not readable:
            continue
        data = os.read(sys.stdin.fileno(), READ_BYTES_MAX)
        if not data:
            return
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            for line in (pending + whole).split(b"\n"):
                if line.strip():
                    server.receive_line(line)
            pending.clear()
        pending += rest
        if len(pending) > LINE_BYTES_MAX:
            sys.exit(f"a line is longer than {LINE_BYTES_MAX} bytes")


def main() -> None:
    """Serve until the end of input, which also ends the calls in progress."""
    server = DemoServer(_write, time.monotonic)
    try:
        _serve(server)
    except (BrokenPipeError, KeyboardInterrupt):
        return  # nobody is left to be told


if __name__ == "__main__":
    main()

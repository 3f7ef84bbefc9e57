"""Virtual peers of the data plane: a scripted server and clients over virtual connections."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from proxy_actors.errors import DeadlineError, FailedError, StreamClosedError
from proxy_actors.protocol.headers import Fields, first
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseParser
from proxy_actors.protocol.sse import SseDecoder
from proxy_actors.world.sim_streams import SimStream
from proxy_actors.world.sim_world import SimWorld
from tests.scripted_server import VERSION, ScriptedServer
from tests.scripted_streams import Link, Resumption, Signal

UPSTREAM = ("upstream.test", 80)
URL = "http://upstream.test/mcp"
PROXY = ("127.0.0.1", 8808)
PATIENCE_S = 4000.0
ACCEPT = "application/json, text/event-stream"


class SimLink(Link):
    """A connection of the scripted server."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream

    def receive(self) -> bytes:
        try:
            return self._stream.read(65_536, math.inf)
        except StreamClosedError as error:
            raise ConnectionError from error

    def send(self, data: bytes) -> None:
        try:
            self._stream.write((data,), math.inf)
        except StreamClosedError as error:
            raise ConnectionError from error

    def close(self) -> None:
        self._stream.close()

    def reset(self) -> None:
        self._stream.reset()

    def departed(self) -> bool:
        return not self._stream.is_quiet()


class SimSignal(Signal):
    """A waiter under another name."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._waiter = world.waiter()

    def set(self) -> None:
        self._waiter.set()

    def wait(self, seconds: float) -> bool:
        try:
            self._waiter.wait(self._world.now_s() + seconds)
        except DeadlineError:
            return False
        return True


def start_server(
    world: SimWorld,
    sessions: bool = True,
    standalone: bool = True,
    resumption: Resumption | None = None,
) -> ScriptedServer:
    """Have a scripted server listen where `URL` says."""
    server = ScriptedServer(
        world.pass_time,
        lambda: SimSignal(world),
        sessions,
        standalone,
        lambda function: world.spawn("script", function),
        resumption,
    )

    def accept(stream: Any) -> None:
        server.serve(SimLink(stream))

    world.listen(*UPSTREAM, accept)
    return server


@dataclass
class Answer:
    """What a client got for one request.

    `complete` is false when the connection ended, or broke the rules, before the answer did.
    """

    status: int | None = None
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    keep_alive: bool = False

    def field(self, name: bytes) -> bytes | None:
        return first(self.fields, name)

    @property
    def is_stream(self) -> bool:
        return self.field(b"content-type") == b"text/event-stream"

    @property
    def messages(self) -> list[Any]:
        """The JSON-RPC messages in it."""
        if self.is_stream:
            return [json.loads(x.data) for x in SseDecoder(1 << 24).feed(self.body) if x.data]
        return [json.loads(self.body)] if self.body and self.complete else []

    @property
    def message(self) -> Any:
        """The last of them."""
        return self.messages[-1]

    @property
    def error(self) -> Any:
        return self.message["error"]


class VirtualConnection:
    """One connection of a client to the proxy."""

    def __init__(self, world: SimWorld, patience_s: float = PATIENCE_S) -> None:
        self.world = world
        self.stream = world.connect(*PROXY, math.inf)
        self._patience_s = patience_s
        self._ahead = b""

    def send(self, data: bytes) -> None:
        """Send; what a proxy that has closed does not take is nobody's loss."""
        try:
            self.stream.write((data,), self.world.now_s() + self._patience_s)
        except (StreamClosedError, DeadlineError):
            pass

    def receive(self, method: str = "POST", answer: Answer | None = None) -> Answer:
        """Read one answer. `answer` is filled as it comes, for who looks at it meanwhile."""
        answer = answer or Answer()
        parser = ResponseParser(HttpLimits(), method.encode())
        deadline_s = self.world.now_s() + self._patience_s
        try:
            while True:
                data, self._ahead = self._ahead, b""
                data = data or self.stream.read(65_536, deadline_s)
                self._feed(parser, data, answer)
                if answer.complete or not data:
                    return answer
        except (StreamClosedError, FailedError):
            return answer

    def ask(self, data: bytes, method: str = "POST") -> Answer:
        self.send(data)
        return self.receive(method)

    def half_close(self) -> None:
        """End the output only."""
        assert isinstance(self.stream, SimStream) and self.stream._out is not None
        self.stream._out.end()

    def close(self) -> None:
        self.stream.close()

    def _feed(self, parser: ResponseParser, data: bytes, answer: Answer) -> None:
        """Feed no more than can be of this answer, so that what belongs to the next is left.

        An answer ends with its length, or with a line: of its last chunk, or of its head.
        """
        at = 0
        while at < len(data) and not parser.complete:
            head = parser.head
            if head is not None and head.content_length is not None:
                end = at + head.content_length - parser.body_bytes
            else:
                end = data.find(b"\n", at) + 1 or len(data)
            parser.feed(data[at:end])
            at = end
        self._ahead = data[at:]
        if not data:
            parser.end_of_input()
        if parser.head is not None:
            answer.status, answer.fields = parser.head.status, parser.head.fields
            answer.keep_alive = parser.head.keep_alive
            answer.body += parser.take_body()
            answer.complete = parser.complete


def request(
    body: Any = None,
    method: str = "POST",
    session: str | None = None,
    path: str = "/mcp",
    fields: dict[str, str | None] | None = None,
) -> bytes:
    """Make the bytes of a request; a field of None is left out."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    all_fields: dict[str, str | None] = {"Host": "127.0.0.1:8808", "Accept": ACCEPT}
    if method == "POST":
        all_fields |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
    if session is not None:
        all_fields |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": VERSION}
    all_fields |= fields or {}
    lines = [f"{name}: {value}" for name, value in all_fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + data


def call(n: int, *steps: str, method: str = "tools/call", id: Any = None) -> dict[str, Any]:
    """A request that the server is to answer by these steps."""
    arguments: dict[str, Any] = {"n": n}
    if steps:
        arguments["do"] = list(steps)
    return {
        "jsonrpc": "2.0",
        "id": n if id is None else id,
        "method": method,
        "params": {"name": "t", "arguments": arguments},
    }


def note(method: str, **params: Any) -> dict[str, Any]:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def initialize(version: str = VERSION, *steps: str) -> dict[str, Any]:
    """The first request of a session."""
    params: dict[str, Any] = {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}
    }
    if steps:
        params["_meta"] = {"do": list(steps)}
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}

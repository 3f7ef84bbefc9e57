"""An MCP server over HTTP that does with each request what the request says.

A request says it in `params.arguments.do` or `params._meta.do`, a list of steps; each step is a
method `do_...` below. So a client knows what it must see, and a test reads as the exchange that it
is about. The server counts executions by `params.arguments.n`. It runs on whatever can carry bytes:
a virtual stream of a simulated world, or a thread with a socket.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ANSWER_WAIT_S = 60.0
VERSION = "2025-11-25"


class Link(ABC):
    """One connection, as the server sees it. A reset raises ConnectionError."""

    @abstractmethod
    def receive(self) -> bytes:
        """Return some bytes, b"" at the end."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send all."""

    @abstractmethod
    def close(self) -> None:
        """End cleanly."""

    @abstractmethod
    def reset(self) -> None:
        """End with a reset."""

    def vanish(self) -> None:
        """End without the farewell that there may be between TCP and HTTP."""
        self.close()


class Signal(ABC):
    """Something that one waits for and another sets."""

    @abstractmethod
    def set(self) -> None:
        """Let who waits go on."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait; False when the time was up."""


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: Any

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)


@dataclass
class UpstreamSession:
    """A session of the server's own."""

    id: str
    ended: bool = False
    standalone: StandaloneStream | None = None
    asked: dict[str, Signal] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)


class StandaloneStream:
    """What a GET stream is to send."""

    def __init__(self, signal: Callable[[], Signal]) -> None:
        self._signal = signal
        self._waiting = signal()
        self.messages: list[Any] = []
        self.ended = False

    def put(self, message: Any) -> None:
        self.messages.append(message)
        self._waiting.set()

    def end(self) -> None:
        self.ended = True
        self._waiting.set()

    def wait(self) -> None:
        self._waiting.wait(ANSWER_WAIT_S)
        self._waiting = self._signal()


class Over(Exception):
    """The connection cannot be used further."""


class ScriptedServer:
    """The server.

    Args:
        pause: lets time pass.
        signal: makes what one waits for.
        sessions: whether it hands out session ids.
        standalone: whether it offers GET streams.
    """

    def __init__(
        self,
        pause: Callable[[float], None],
        signal: Callable[[], Signal],
        sessions: bool = True,
        standalone: bool = True,
    ) -> None:
        self.pause = pause
        self.signal = signal
        self.gives_sessions = sessions
        self.offers_standalone = standalone
        self.sessions: dict[str, UpstreamSession] = {}
        self.executions: Counter[object] = Counter()
        self.seen: list[Seen] = []
        self.deleted: list[str] = []
        self.links = 0
        self._serial = 0

    def lose_sessions(self) -> None:
        """Forget every session, as a restart does."""
        for session in self.sessions.values():
            session.ended = True
            if session.standalone is not None:
                session.standalone.end()
        self.sessions.clear()

    def serve(self, link: Link) -> None:
        """Serve one connection to its end."""
        self.links += 1
        reader = _Reader(link)
        try:
            while (seen := reader.request()) is not None:
                self.seen.append(seen)
                self._answer(link, seen)
        except (Over, ConnectionError):
            pass
        finally:
            self.links -= 1
            link.close()

    def _answer(self, link: Link, seen: Seen) -> None:
        session = self.sessions.get(seen.field("mcp-session-id") or "")
        message = seen.body
        opening = isinstance(message, dict) and message.get("method") == "initialize"
        if self.gives_sessions and not opening and session is None:
            refuse(link, 404)
        elif seen.method == "DELETE":
            self._delete(link, session)
        elif seen.method == "GET":
            self._stand(link, session)
        elif opening:
            self._open(link, message)
        else:
            _Exchange(self, link, message, session).run()

    def _open(self, link: Link, message: Any) -> None:
        fields = ""
        session = None
        if self.gives_sessions:
            self._serial += 1
            session = UpstreamSession(f"up-{self._serial}")
            self.sessions[session.id] = session
            fields = f"Mcp-Session-Id: {session.id}\r\n"
        exchange = _Exchange(self, link, message, session, fields)
        exchange.result = {
            "protocolVersion": message["params"].get("protocolVersion", VERSION),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"},
        }
        exchange.run()

    def _delete(self, link: Link, session: UpstreamSession | None) -> None:
        if session is not None:
            session.ended = True
            self.deleted.append(session.id)
            self.sessions.pop(session.id, None)
            if session.standalone is not None:
                session.standalone.end()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _stand(self, link: Link, session: UpstreamSession | None) -> None:
        if not self.offers_standalone or session is None:
            refuse(link, 405)
            return
        if session.standalone is not None:
            refuse(link, 409)
            return
        stream = session.standalone = StandaloneStream(self.signal)
        try:
            link.send(EVENT_STREAM_HEAD)
            while True:
                while stream.messages:
                    link.send(chunk(event(stream.messages.pop(0))))
                if stream.ended:
                    break
                stream.wait()
                if not stream.messages and not stream.ended:
                    link.send(chunk(b": still here\r\n\r\n"))
            link.send(b"0\r\n\r\n")
        finally:
            session.standalone = None


class _Exchange:
    """One request on its way through its script."""

    def __init__(
        self,
        server: ScriptedServer,
        link: Link,
        message: Any,
        session: UpstreamSession | None,
        fields: str = "",
    ) -> None:
        params = message.get("params") or {} if isinstance(message, dict) else {}
        arguments = params.get("arguments") or {}
        self.server = server
        self.link = link
        self.session = session
        self.id = message.get("id") if isinstance(message, dict) else None
        self.n = arguments.get("n")
        self.steps = arguments.get("do") or (params.get("_meta") or {}).get("do")
        self.fields = fields
        self.result: Any = {"content": [{"type": "text", "text": f"n={self.n}"}]}
        if not isinstance(message, dict) or "method" not in message:
            self._take_answer(message)
        elif self.id is not None and not self._refused():
            server.executions[self.n] += 1
        if self.steps is None:
            self.steps = ["json"] if self.id is not None and "method" in message else ["202"]

    def run(self) -> None:
        for step in self.steps:
            name, _, value = str(step).partition(" ")
            if name.isdigit():
                refuse(self.link, int(name), value)
            else:
                getattr(self, "do_" + name.replace("-", "_"))(value)

    # Steps.

    def do_pause(self, seconds: str) -> None:
        self.server.pause(float(seconds))

    def do_json(self, _: str) -> None:
        body = self.answer()
        self._send(self._head("application/json", f"Content-Length: {len(body)}"), body)

    def do_chunked(self, size: str) -> None:
        body = self.answer()
        self._send(self._head("application/json; charset=utf-8", "Transfer-Encoding: chunked"))
        for at in range(0, len(body), int(size or 7)):
            self._send(chunk(body[at : at + int(size or 7)]))
        self._send(b"0\r\n\r\n")

    def do_until_close(self, _: str) -> None:
        self._send(self._head("application/json", "Connection: close"), self.answer())
        self.do_close("")

    def do_large(self, size: str) -> None:
        self.result = {"content": [{"type": "text", "text": "x" * int(size)}], "n": self.n}

    def do_tool_error(self, _: str) -> None:
        """Let the result say that the tool has failed."""
        self.result["isError"] = True

    def do_field(self, line: str) -> None:
        """Let the head have a field more."""
        self.fields += f"{line}\r\n"

    def do_sse(self, _: str) -> None:
        self._send(self._head("text/event-stream", "Transfer-Encoding: chunked"))

    def do_prime(self, _: str) -> None:
        self._send(chunk(b"id: 1\r\ndata: \r\nretry: 100\r\n\r\n"))

    def do_note(self, size: str) -> None:
        params = {"progressToken": self.n, "progress": 1, "message": "x" * int(size or 0)}
        self._event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def do_ask(self, _: str) -> None:
        """Ask the client, and go on when it has answered."""
        assert self.session is not None
        id = f"ask-{self.n}-{len(self.session.asked)}"
        signal = self.session.asked[id] = self.server.signal()
        params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        self._event(
            {"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params}
        )
        if not signal.wait(ANSWER_WAIT_S):
            raise Over

    def do_answer(self, _: str) -> None:
        self._send(chunk(event(json.loads(self.answer()))))

    def do_wrong_id(self, _: str) -> None:
        self.id = "not yours"
        self.do_json("")

    def do_foreign(self, _: str) -> None:
        """Send an answer to a request of nobody's."""
        self._event({"jsonrpc": "2.0", "id": "not yours", "result": {}})

    def do_event(self, data: str) -> None:
        """Send whatever the step says in an event."""
        self._send(chunk(b"data: %s\n\n" % data.encode()))

    def do_error(self, code: str) -> None:
        """Answer with a JSON-RPC error, as JSON."""
        status, _, number = code.partition(" ")
        body = json.dumps(
            {"jsonrpc": "2.0", "id": self.id, "error": {"code": int(number), "message": "no"}}
        ).encode()
        self._send(
            b"HTTP/1.1 %s No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (status.encode(), len(body), body)
        )

    def do_end(self, _: str) -> None:
        self._send(b"0\r\n\r\n")

    def do_head(self, _: str) -> None:
        self._send(self._head("application/json", f"Content-Length: {len(self.answer())}"))

    def do_half(self, _: str) -> None:
        body = self.answer()
        self._send(body[: len(body) // 2])

    def do_half_event(self, _: str) -> None:
        data = event(json.loads(self.answer()))
        self._send(chunk(data[: len(data) // 2]))

    def do_garbage(self, _: str) -> None:
        self._send(b"\x00\x01 this is not HTTP\r\n\r\n")

    def do_raw(self, text: str) -> None:
        self._send(text.encode("latin-1").decode("unicode_escape").encode("latin-1"))

    def do_no_json(self, _: str) -> None:
        self._send(self._head("application/json", "Content-Length: 5"), b"{nope")

    def do_spaced(self, _: str) -> None:
        """Answer with line ends between the tokens (THR-T21)."""
        body = self.answer().replace(b'"id"', b'\r\n\n"id"\r\n')
        self._send(self._head("application/json", f"Content-Length: {len(body)}"), body)

    def do_extra(self, _: str) -> None:
        """Send another answer that nobody asked for."""
        body = b'{"jsonrpc":"2.0","id":"not yours","result":{}}'
        self._send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )

    def do_lose(self, _: str) -> None:
        self.server.lose_sessions()

    def do_close(self, _: str) -> None:
        self.link.close()
        raise Over

    def do_vanish(self, _: str) -> None:
        self.link.vanish()
        raise Over

    def do_reset(self, _: str) -> None:
        self.link.reset()
        raise Over

    # Inside.

    def answer(self) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": self.id, "result": self.result}).encode()

    def _head(self, media_type: str, framing: str) -> bytes:
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n{self.fields}{framing}\r\n\r\n"
        ).encode()

    def _event(self, message: Any) -> None:
        self._send(chunk(event(message)))

    def _send(self, *parts: bytes) -> None:
        self.link.send(b"".join(parts))

    def _refused(self) -> bool:
        first = str((self.steps or [""])[0])
        return first.partition(" ")[0] in ("401", "403", "429", "404")

    def _take_answer(self, message: Any) -> None:
        if self.session is None or not isinstance(message, dict):
            return
        self.session.answers.append(message)
        signal = self.session.asked.get(str(message.get("id")))
        if signal is not None:
            signal.set()


EVENT_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def event(message: Any) -> bytes:
    """One event, with the line ends of Python servers."""
    return b"event: message\r\ndata: %s\r\n\r\n" % json.dumps(message).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def refuse(link: Link, status: int, fields: str = "") -> None:
    extra = fields.replace("|", "\r\n") + "\r\n" if fields else ""
    link.send(f"HTTP/1.1 {status} No\r\n{extra}Content-Length: 0\r\n\r\n".encode())


class _Reader:
    """Cuts requests off a connection; bodies have a length."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ahead = b""

    def request(self) -> Seen | None:
        while b"\r\n\r\n" not in self._ahead:
            if not self._more():
                return None
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        line, *rows = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        fields = [
            (name.lower(), value.strip()) for name, _, value in (row.partition(":") for row in rows)
        ]
        length = int(dict(fields).get("content-length", "0"))
        while len(self._ahead) < length:
            if not self._more():
                return None
        body, self._ahead = self._ahead[:length], self._ahead[length:]
        return Seen(method, target, fields, json.loads(body) if body else None)

    def _more(self) -> bool:
        data = self._link.receive()
        self._ahead += data
        return bool(data)

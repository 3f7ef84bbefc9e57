"""An MCP server over HTTP that does with each request what the request says.

A request says it in `params.arguments.do` or `params._meta.do`, a list of steps; each step is a
method `do_...` below. So a client knows what it must see, and a test reads as the exchange that it
is about. The server counts executions by `params.arguments.n`. It runs on whatever can carry bytes:
a virtual stream of a simulated world, or a thread with a socket. Where it is resumable, scripts go
on without their connections, and their streams wait for who comes back (`scripted_streams.py`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.scripted_streams import (
    ANSWER_WAIT_S,
    EVENT_STREAM_HEAD,
    Link,
    Over,
    Resumption,
    ServerStream,
    Signal,
    chunk,
    event,
)

VERSION = "2025-11-25"


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
    standalone: ServerStream | None = None
    streams: dict[str, ServerStream] = field(default_factory=dict)
    asked: dict[str, Signal] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)

    def end_streams(self) -> None:
        """Say nothing more on any stream."""
        for stream in [*self.streams.values(), *filter(None, [self.standalone])]:
            stream.end()


class Elsewhere(Exception):
    """The rest of the script is run without the connection."""


class LinkServer(ABC):
    """Serves connections, one request after another.

    Attributes:
        seen: the requests, as they came.
        links: how many connections are being served.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.links = 0

    def serve(self, link: Link) -> None:
        """Serve one connection to its end."""
        self.links += 1
        reader = RequestReader(link)
        try:
            while (seen := reader.request()) is not None:
                self.seen.append(seen)
                self._answer(link, seen)
        except (Over, ConnectionError):
            pass
        finally:
            self.links -= 1
            link.close()

    @abstractmethod
    def _answer(self, link: Link, seen: Seen) -> None:
        """Answer one request. Raises Over when nothing more can come on the connection."""


class ScriptedServer(LinkServer):
    """The server.

    Args:
        pause: lets time pass.
        signal: makes what one waits for.
        sessions: whether it hands out session ids.
        standalone: whether it offers GET streams.
        spawn: runs the rest of a script whose connection serves others.
        resumption: how clients come back to its streams, if they can.

    Attributes:
        openings: how the next sessions are refused, each by a step.
        firsts: by what steps the next requests of a method are answered, whatever they say.
        tools: what it answers to tools/list, where that is anything but the usual.
        pinged: what is done with a ping; a result is given by default.
        health: the status of GET /health.
        capabilities: what it says of itself.
        usual: the steps of a call that says none, where it has an `n`; None answers it.
        slow_s: how long a standalone stream takes to open.
        resumed: how often somebody has come back to a stream, by its name.
        stream_of: the name of the stream that answers request `n`.
    """

    def __init__(
        self,
        pause: Callable[[float], None],
        signal: Callable[[], Signal],
        sessions: bool = True,
        standalone: bool = True,
        spawn: Callable[[Callable[[], None]], object] | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        super().__init__()
        self.pause = pause
        self.signal = signal
        self.spawn = spawn
        self.resumption = resumption
        self.gives_sessions = sessions
        self.offers_standalone = standalone
        self.sessions: dict[str, UpstreamSession] = {}
        self.executions: Counter[object] = Counter()
        self.deleted: list[str] = []
        self.openings: list[str] = []
        self.firsts: dict[str, list[list[str]]] = {}
        self.tools: list[Any] | None = None
        self.pinged: list[str] | None = None
        self.health = 200
        self.capabilities: Any = {"tools": {}}
        self.usual: list[str] | None = None
        self.slow_s = 0.0
        self.resumed: Counter[str] = Counter()
        self.stream_of: dict[object, str] = {}
        self._serial = 0

    def lose_sessions(self) -> None:
        """Forget every session, as a restart does."""
        for session in self.sessions.values():
            session.ended = True
            session.end_streams()
        self.sessions.clear()

    def new_stream(self, session: UpstreamSession) -> ServerStream:
        """Begin a stream, with ids if clients can come back to it."""
        if self.resumption is None:
            return ServerStream("", self.signal)
        name = f"{session.id}-{len(session.streams) + 1}"
        stream = session.streams[name] = ServerStream(name, self.signal, self.resumption)
        return stream

    def _answer(self, link: Link, seen: Seen) -> None:
        session = self.sessions.get(seen.field("mcp-session-id") or "")
        message, after = seen.body, seen.field("last-event-id")
        opening = isinstance(message, dict) and message.get("method") == "initialize"
        if seen.target == "/health":
            refuse(link, self.health)
        elif self.gives_sessions and not opening and session is None:
            refuse(link, 404)
        elif seen.method == "DELETE":
            self._delete(link, session)
        elif seen.method == "GET" and session is not None and after is not None:
            self._resume(link, session, after)
        elif seen.method == "GET":
            self._stand(link, session)
        elif opening:
            self._open(link, message)
        else:
            _Exchange(self, link, message, session).run()

    def _open(self, link: Link, message: Any) -> None:
        if self.openings:
            exchange = _Exchange(self, link, message, None)
            exchange.steps = [self.openings.pop(0)]
            exchange.run()
            return
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
            "capabilities": self.capabilities,
            "serverInfo": {"name": "scripted", "version": "1"},
        }
        exchange.run()

    def _delete(self, link: Link, session: UpstreamSession | None) -> None:
        if session is not None:
            session.ended = True
            self.deleted.append(session.id)
            self.sessions.pop(session.id, None)
            session.end_streams()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _stand(self, link: Link, session: UpstreamSession | None) -> None:
        if not self.offers_standalone or session is None:
            refuse(link, 405)
        elif session.standalone is not None and _is_read(session.standalone):
            refuse(link, 409)
        else:
            if self.slow_s:
                self.pause(self.slow_s)
            if session.standalone is not None:
                session.standalone.end()
            stream = session.standalone = self.new_stream(session)
            try:
                link.send(EVENT_STREAM_HEAD)
                if self.resumption is not None and self.resumption.primes:
                    link.send(chunk(stream.primer()))
                stream.follow(link, 0)
            finally:
                stream.leave(link)
                if self.resumption is None and session.standalone is stream:
                    session.standalone = None

    def _resume(self, link: Link, session: UpstreamSession, after: str) -> None:
        """Send what followed an event, on a stream of either kind."""
        ways = self.resumption
        name, _, number = after.rpartition(".")
        stream = session.streams.get(name)
        if ways is None:
            refuse(link, 400)
        elif ways.refusals:
            status, _, fields = str(ways.refusals.pop(0)).partition(" ")
            refuse(link, int(status), fields)
        elif stream is None and ways.unknown != 200:
            refuse(link, ways.unknown)
        elif stream is None:
            link.send(EVENT_STREAM_HEAD + b"0\r\n\r\n")
        elif ways.jealous and _is_read(stream):
            refuse(link, 409)
        else:
            self.resumed[name] += 1
            if ways.after_s:
                self.pause(ways.after_s)
            link.send(EVENT_STREAM_HEAD)
            if ways.primes_again:
                link.send(chunk(stream.primer(int(number))))
            try:
                stream.follow(link, max(int(number) - ways.again, 0))
            finally:
                stream.leave(link)


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
        self.link: Link | None = link
        self.session = session
        self.stream: ServerStream | None = None
        self.sent = 0
        self.noted = 0
        self.id = message.get("id") if isinstance(message, dict) else None
        self.n = arguments.get("n")
        self.steps = arguments.get("do") or (params.get("_meta") or {}).get("do")
        self.fields = fields
        self.result: Any = {"content": [{"type": "text", "text": f"n={self.n}"}]}
        method = message.get("method") if isinstance(message, dict) else None
        if server.firsts.get(method):
            self.steps = server.firsts[method].pop(0)
        if method == "tools/list" and server.tools is not None:
            self.result = {"tools": server.tools}
        if not isinstance(message, dict) or "method" not in message:
            self._take_answer(message)
        elif self.id is not None and not self._refused():
            server.executions[self.n] += 1
        if self.steps is None and isinstance(message, dict) and message.get("method") == "ping":
            self.steps = server.pinged
        if self.steps is None and isinstance(message, dict) and self.n is not None:
            self.steps = server.usual
        if self.steps is None:
            self.steps = ["json"] if self.id is not None and "method" in message else ["202"]

    def run(self) -> None:
        """Run the script to its end.

        Raises:
            Over: the connection has ended, before the script or with it.
        """
        self._todo = iter(self.steps)
        try:
            self._go_on()
        except Elsewhere:
            return
        if self.link is None:
            raise Over

    def _go_on(self) -> None:
        try:
            for step in self._todo:
                name, _, value = str(step).partition(" ")
                if not name.isdigit():
                    getattr(self, "do_" + name.replace("-", "_"))(value)
                elif self.link is not None:
                    refuse(self.link, int(name), value)
        except Elsewhere:
            assert self.server.spawn is not None
            self.server.spawn(self._go_on_elsewhere)
            raise
        except BaseException:
            self._end_stream()
            raise
        self._end_stream()

    def _go_on_elsewhere(self) -> None:
        try:
            self._go_on()
        except Over:
            pass

    def _end_stream(self) -> None:
        if self.stream is not None:
            self.stream.end()
            if self.stream.link is not self.link:
                self.link = None
            self.stream.leave(self.link)

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
        ways = self.server.resumption
        if ways is not None and self.session is not None:
            self.stream = self.server.new_stream(self.session)
            self.server.stream_of[self.n] = self.stream.name
            self.stream.link = self.link
            if ways.primes:
                self.do_prime("")

    def do_prime(self, _: str) -> None:
        if self.stream is not None:
            self._send(chunk(self.stream.primer(self.sent)))
        else:
            self._send(chunk(b"id: 1\r\ndata: \r\nretry: 100\r\n\r\n"))

    def do_retry(self, wait_ms: str) -> None:
        """Say how long to wait, in an event that is none."""
        self._send(chunk(b"retry: %s\r\n\r\n" % wait_ms.encode()))

    def do_leave(self, how: str) -> None:
        """End the connection in some way, and not the stream (SEP-1699)."""
        if self.stream is None:
            raise Over
        link, self.link = self.link, None
        if link is None or self.stream.link is not link:
            self.stream.let_go()
            return
        self.stream.leave(link)
        if how == "reset":
            link.reset()
        elif how == "close":
            link.close()
        else:
            link.send(b"0\r\n\r\n")
            raise Elsewhere

    def do_note(self, size: str) -> None:
        self.noted += 1
        message = "x" * int(size or 0)
        params = {"progressToken": self.n, "progress": self.noted, "message": message}
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
        self._event(json.loads(self.answer()))

    def do_wrong_id(self, _: str) -> None:
        self.id = "not yours"
        self.do_json("")

    def do_foreign(self, _: str) -> None:
        """Send an answer to a request of nobody's."""
        self._event({"jsonrpc": "2.0", "id": "not yours", "result": {}})

    def do_event(self, data: str) -> None:
        """Send whatever the step says in an event."""
        self._say(b"data: %s\n\n" % data.encode())

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
        if self.stream is not None:
            self.stream.end()
        self._send(b"0\r\n\r\n")

    def do_head(self, _: str) -> None:
        self._send(self._head("application/json", f"Content-Length: {len(self.answer())}"))

    def do_half(self, _: str) -> None:
        body = self.answer()
        self._send(body[: len(body) // 2])

    def do_half_event(self, _: str) -> None:
        data = event(json.loads(self.answer()))
        if self.stream is not None:
            data = self.stream.numbered(data)
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
        if self.link is not None:
            self.link.close()
        raise Over

    def do_vanish(self, _: str) -> None:
        if self.link is not None:
            self.link.vanish()
        raise Over

    def do_reset(self, _: str) -> None:
        if self.link is not None:
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
        self._say(event(message))

    def _say(self, data: bytes) -> None:
        if self.stream is None:
            self._send(chunk(data))
            return
        self.stream.say(data)
        if self.link is not None and self.stream.link is self.link:
            try:
                self.sent = self.stream.send(self.link, self.sent)
            except ConnectionError:
                self._lose_link()

    def _send(self, *parts: bytes) -> None:
        if self.stream is not None and self.stream.link is not self.link:
            self.link = None  # somebody has come back for the stream: this connection is of before
        if self.link is None:
            return
        try:
            self.link.send(b"".join(parts))
        except ConnectionError:
            if self.stream is None:
                raise
            self._lose_link()

    def _lose_link(self) -> None:
        """Go on without the connection: the call is not cancelled by its end (MCP-S-21)."""
        assert self.stream is not None
        self.stream.leave(self.link)
        self.link = None

    def _refused(self) -> bool:
        first = str((self.steps or [""])[0])
        asks_to_wait = first.startswith("503 Retry-After")
        return asks_to_wait or first.partition(" ")[0] in ("401", "403", "429", "404")

    def _take_answer(self, message: Any) -> None:
        if self.session is None or not isinstance(message, dict):
            return
        self.session.answers.append(message)
        signal = self.session.asked.get(str(message.get("id")))
        if signal is not None:
            signal.set()


def _is_read(stream: ServerStream) -> bool:
    return stream.link is not None and not stream.link.departed()


def refuse(link: Link, status: int, fields: str = "") -> None:
    extra = fields.replace("|", "\r\n") + "\r\n" if fields else ""
    link.send(f"HTTP/1.1 {status} No\r\n{extra}Content-Length: 0\r\n\r\n".encode())


class RequestReader:
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

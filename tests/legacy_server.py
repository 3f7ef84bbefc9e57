"""A server of HTTP+SSE, the transport of 2024-11-05, that does with each message what that says.

A request says in `params.arguments.do`, or `params._meta.do`, what comes on the session's stream,
and in `post` beside it what its POST is answered with: each is a list of steps, methods `do_...`
and `post_...` below. The server notes what it accepted, session by session. It runs on whatever can
carry bytes, as `tests/scripted_server.py` does, of which it uses the means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.scripted_server import (
    ANSWER_WAIT_S,
    EVENT_STREAM_HEAD,
    VERSION,
    Link,
    LinkServer,
    Over,
    Seen,
    Signal,
    chunk,
    event,
    refuse,
)

STREAM = "/sse"
ENDPOINT = "/messages?session={id}"


@dataclass
class LegacySession:
    """One session: a stream, and what was sent to its message endpoint."""

    id: str
    link: Link
    heard: list[Any] = field(default_factory=list)
    asked: dict[str, Signal] = field(default_factory=dict)
    ended: bool = False

    def send(self, message: Any) -> None:
        """Send a message on the stream."""
        self.link.send(chunk(event(message)))

    def methods(self) -> list[Any]:
        """The methods of what was accepted, None for answers."""
        return [message.get("method") for message in self.heard]


class LegacyServer(LinkServer):
    """The server.

    Args:
        pause: lets time pass.
        signal: makes what one waits for.
        spawn: runs what is handled after its POST was answered.

    Attributes:
        endpoint: what the first event says, of the session `{id}`.
        greeting: the type of the first event; "" for none at all.
        refusal, refusal_body: how a POST to the stream's path is refused.
        stream_status: how a GET of it is answered.
        hung: whether it accepts messages and does nothing about them.
    """

    def __init__(
        self,
        pause: Callable[[float], None],
        signal: Callable[[], Signal],
        spawn: Callable[[Callable[[], None]], object],
    ) -> None:
        super().__init__()
        self.pause = pause
        self.signal = signal
        self.spawn = spawn
        self.endpoint = ENDPOINT
        self.greeting = "endpoint"
        self.refusal = 405
        self.refusal_body = b""
        self.stream_status = 200
        self.hung = False
        self.sessions: dict[str, LegacySession] = {}
        self.executions: Counter[object] = Counter()
        self._serial = 0

    @property
    def session(self) -> LegacySession:
        """The session that was opened last."""
        return list(self.sessions.values())[-1]

    def forget(self) -> None:
        """Know no session any more, though their streams are open."""
        self.sessions.clear()

    def _answer(self, link: Link, seen: Seen) -> None:
        path, _, query = seen.target.partition("?")
        if path == STREAM and seen.method == "GET":
            self._stand(link)
        elif path == STREAM and not query:
            self._refuse(link)
        else:
            session = self.sessions.get(query.partition("=")[2])
            if session is None:
                refuse(link, 404)
            else:
                _Message(self, link, session, seen.body).run()

    def _refuse(self, link: Link) -> None:
        body = self.refusal_body
        head = f"HTTP/1.1 {self.refusal} No\r\nContent-Type: application/json\r\n"
        link.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _stand(self, link: Link) -> None:
        if self.stream_status != 200:
            refuse(link, self.stream_status)
            return
        self._serial += 1
        session = LegacySession(str(self._serial), link)
        self.sessions[session.id] = session
        try:
            link.send(EVENT_STREAM_HEAD)
            if self.greeting:
                uri = self.endpoint.format(id=session.id)
                link.send(chunk(f"event: {self.greeting}\r\ndata: {uri}\r\n\r\n".encode()))
            while link.receive():
                pass
        finally:
            session.ended = True
            self.sessions.pop(session.id, None)


class _Message:
    """One message on its way through its script."""

    def __init__(
        self, server: LegacyServer, link: Link, session: LegacySession, message: Any
    ) -> None:
        params = message.get("params") or {}
        says = {**(params.get("_meta") or {}), **(params.get("arguments") or {})}
        self.server = server
        self.link = link
        self.session = session
        self.message = message
        self.id = message.get("id")
        self.n = says.get("n")
        self.is_request = self.id is not None and "method" in message
        self.steps = says.get("do") or (["answer"] if self.is_request else [])
        self.posts = says.get("post") or ["202"]
        self.result: Any = {"content": [{"type": "text", "text": f"n={self.n}"}]}
        if message.get("method") == "initialize":
            self.result = {
                "protocolVersion": params.get("protocolVersion", VERSION),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "legacy", "version": "1"},
            }

    def run(self) -> None:
        for step in self.posts:
            name, _, value = step.partition(" ")
            if name.isdigit():
                self._answer_post(int(name))
            else:
                getattr(self, f"post_{name}")(value)

    # What the POST is answered with; what is answered with 202 is handled after that.

    def post_late(self, _: str) -> None:
        """Handle the message, and answer the POST only then."""
        self._handle()
        self._send_accepted()

    def post_never(self, _: str) -> None:
        """Handle the message, and do not answer the POST."""
        self._handle()
        self.link.receive()
        raise Over

    def post_break(self, _: str) -> None:
        """End the connection without an answer to the POST."""
        self.link.close()
        raise Over

    def post_reset(self, _: str) -> None:
        self.link.reset()
        raise Over

    def post_handle(self, _: str) -> None:
        """Handle the message before whatever follows."""
        self._handle()

    def post_pause(self, seconds: str) -> None:
        self.server.pause(float(seconds))

    def _answer_post(self, status: int) -> None:
        if status == 202:
            self._send_accepted()
            self.server.spawn(self._handle_apart)
        else:
            refuse(self.link, status)

    def _send_accepted(self) -> None:
        self.link.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted")

    # What comes on the stream.

    def _handle_apart(self) -> None:
        try:
            self._handle()
        except (Over, ConnectionError):
            pass  # the session has ended

    def _handle(self) -> None:
        if self.server.hung:
            return
        self.session.heard.append(self.message)
        if self.is_request:
            self.server.executions[self.n] += 1
        signal = self.session.asked.get(str(self.id))
        if signal is not None and not self.is_request:
            signal.set()
        for step in self.steps:
            name, _, value = step.partition(" ")
            getattr(self, f"do_{name}")(value)

    def do_answer(self, _: str) -> None:
        self.session.send({"jsonrpc": "2.0", "id": self.id, "result": self.result})

    def do_large(self, size: str) -> None:
        self.result = {"content": [{"type": "text", "text": "x" * int(size)}], "n": self.n}

    def do_pause(self, seconds: str) -> None:
        self.server.pause(float(seconds))

    def do_note(self, _: str) -> None:
        params = {"progressToken": self.n, "progress": 1}
        self.session.send(
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        )

    def do_log(self, _: str) -> None:
        params = {"level": "info", "data": f"n={self.n}"}
        self.session.send({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    def do_ask(self, _: str) -> None:
        """Ask the client, and go on when it has answered."""
        id = f"ask-{self.n}-{len(self.session.asked)}"
        signal = self.session.asked[id] = self.server.signal()
        params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        self.session.send(
            {"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params}
        )
        if not signal.wait(ANSWER_WAIT_S):
            raise Over

    def do_nothing(self, _: str) -> None:
        """Leave the request without an answer."""

    def do_raw(self, text: str) -> None:
        """Send these bytes on the stream."""
        data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
        self.session.link.send(chunk(data))

    def do_flood(self, size: str) -> None:
        """Send an event of so many bytes."""
        self.session.link.send(chunk(b"data: %s\n\n" % (b"x" * int(size))))

    def do_nonsense(self, _: str) -> None:
        """Break the framing of the stream."""
        self.session.link.send(b"nonsense\r\n")

    def do_end(self, _: str) -> None:
        """End the stream as it should end."""
        self.session.link.send(b"0\r\n\r\n")
        self.session.link.close()

    def do_close(self, _: str) -> None:
        self.session.link.close()

    def do_reset(self, _: str) -> None:
        self.session.link.reset()

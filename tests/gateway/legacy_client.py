"""A client of the HTTP+SSE transport in the simulated world: one stream, and POSTs beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

from proxy_actors.protocol.sse import Event, SseDecoder
from proxy_actors.world.sim_world import SimWorld
from tests.sim.virtual import Answer, VirtualConnection, initialize, note, request

PATIENCE_S = 600.0
LOOK_S = 0.01

Fields = dict[str, str | None]


class LegacyClient:
    """One client. Every method runs in a greenlet of the world.

    Args:
        connect: opens a connection, where that is not the world's usual way.
        look_s: how often it looks whether something has come.

    Attributes:
        answer: what came on the stream so far; `complete` once it has ended as it should.
        gone: whether the stream has ended, in whatever way.
    """

    def __init__(
        self,
        world: SimWorld,
        path: str = "/sse",
        fields: Fields | None = None,
        connect: Callable[[], VirtualConnection] | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self.world = world
        self._look_s = look_s
        self._connect = connect or (lambda: VirtualConnection(world))
        self.answer = Answer()
        self.gone = False
        self._path = path
        self._fields = fields or {}
        self.stream = self._connect()
        self.stream.send(request(None, "GET", path=path, fields=self._fields))
        world.spawn("legacy reader", self._read)
        self.until(lambda: self.gone or bool(self.events) or self.answer.complete)

    @property
    def events(self) -> list[Event]:
        """The events of the stream."""
        return SseDecoder(1 << 24).feed(self.answer.body) if self.answer.is_stream else []

    @property
    def messages(self) -> list[Any]:
        """The JSON-RPC messages among them."""
        return [json.loads(x.data) for x in self.events if x.event == b"message"]

    @property
    def target(self) -> str:
        """Where the stream says that messages are to be sent."""
        endpoint = self.events[0]
        assert endpoint.event == b"endpoint", self.answer
        url = urljoin(f"http://127.0.0.1:8808{self._path}", endpoint.data.decode())
        return url.removeprefix("http://127.0.0.1:8808")

    def post(self, body: Any, fields: Fields | None = None, target: str = "") -> Answer:
        """Send to the message endpoint, each message on a connection of its own."""
        # What the SDKs' clients of this transport say of themselves, which is little.
        own: Fields = {"Accept": "*/*", **self._fields, **(fields or {})}
        sender = self._connect()
        answer = sender.ask(request(body, path=target or self.target, fields=own))
        sender.close()
        return answer

    def initialize(self, version: str = "2024-11-05") -> Any:
        """Open the session; return the answer to `initialize`."""
        assert self.post(initialize(version)).status == 202
        answer = self.reply(0)
        assert self.post(note("notifications/initialized")).status == 202
        return answer

    def call(self, message: Any) -> Any:
        """Send a request and return its answer."""
        assert self.post(message).status == 202
        return self.reply(message["id"])

    def reply(self, id: Any) -> Any:
        """Wait for the answer to a request."""
        return self.message(lambda x: "method" not in x and x.get("id") == id)

    def message(self, wanted: Callable[[Any], bool]) -> Any:
        """Wait for a message."""
        self.until(lambda: any(map(wanted, self.messages)) or self.gone)
        return next(filter(wanted, self.messages))

    def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until something holds."""
        deadline_s = self.world.now_s() + PATIENCE_S
        while not condition():
            assert self.world.now_s() < deadline_s, (self.answer, "and nothing more")
            self.world.pass_time(self._look_s)

    def close(self) -> None:
        """Leave."""
        self.stream.close()

    def _read(self) -> None:
        self.stream.receive("GET", self.answer)
        self.gone = True

"""A client of the HTTP+SSE transport on plain sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

from tests.sim.virtual import Answer, initialize, note, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import ProxyProcess


class Listener:
    """A client's stream on a plain socket, and POSTs on others."""

    def __init__(self, proxy: ProxyProcess, wire: Wire) -> None:
        self.proxy = proxy
        self.wire = wire
        wire.send(request(None, "GET", path="/sse"))
        self.answer = wire.head()
        assert self.answer.status == 200
        self.until(lambda: self.events)
        assert self.events[0][0] == "endpoint"
        self.target = urljoin("/sse", self.events[0][1])

    @property
    def events(self) -> list[tuple[str, str]]:
        """Type and data of each event so far, by the few forms that the proxy writes."""
        found = []
        *whole, _ = self.answer.body.decode().split("\n\n")
        for block in whole:
            if not block.startswith(":"):
                kind, data = block.split("\n")
                found.append((kind.removeprefix("event: "), data.removeprefix("data: ")))
        return found

    @property
    def messages(self) -> list[Any]:
        return [json.loads(data) for kind, data in self.events if kind == "message"]

    def until(self, condition: Callable[[], object]) -> None:
        """Read on until something holds."""
        while not condition():
            assert self.wire.more(self.answer), self.answer

    def post(self, body: Any) -> Answer:
        with self.proxy.wire() as wire:
            return wire.ask(request(body, path=self.target))

    def initialize(self) -> None:
        assert self.post(initialize("2024-11-05")).status == 202
        self.until(lambda: self.messages)
        assert self.post(note("notifications/initialized")).status == 202

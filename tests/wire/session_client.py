"""A client of a proxy that opens sessions and has many requests underway, on kept connections.

A request is sent before its answer is read, so that one thread can have a thousand underway. What
has to be wrong or cut on the wire is the business of `http_client`.
"""

from __future__ import annotations

import http.client
import json
import re
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .waiting import PATIENCE_S

VERSION = "2025-11-25"

Json = dict[str, Any]  # Any: JSON


@dataclass
class Answer:
    """An HTTP response; `messages` are the JSON body, or the messages of the event stream."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes
    messages: list[Json]

    @property
    def message(self) -> Json:
        """The last message, which answers the request."""
        return self.messages[-1]

    @property
    def value(self) -> Any:
        """What a scripted child's tool returned."""
        assert self.status == 200 and "result" in self.message, (self.status, self.body[:500])
        return self.message["result"]["structuredContent"]["value"]

    @property
    def pid(self) -> int:
        """Which scripted child answered."""
        pid: int = self.message["result"]["structuredContent"]["pid"]
        return pid


def check_failure(answer: Answer, status: int, reason: str, executed: str, id: object = 1) -> None:
    """Check the whole error contract: RELIABILITY 1.11."""
    assert answer.status == status, (answer.status, answer.body[:500])
    message = answer.message
    assert message.keys() == {"jsonrpc", "id", "error"}
    assert (message["jsonrpc"], message["id"]) == ("2.0", id)
    assert type(message["id"]) is type(id)
    error = message["error"]
    assert error.keys() == {"code", "message", "data"}
    assert error["code"] == -32603
    assert not re.search(r"/|\.py|Traceback|Errno|0x", error["message"])
    data = error["data"]
    retry_after_ms = data.pop("retryAfterMs", None)
    assert data.pop("requestId")
    assert data == {
        "reason": reason,
        "upstream": "default",
        "executed": executed,
        "retryable": executed == "no",
    }
    if status in (429, 503):
        assert int(answer.fields["Retry-After"]) * 1000 >= retry_after_ms >= 0
    else:
        assert retry_after_ms is None


class Pending:
    """A request underway on a connection of its own."""

    def __init__(self, proxy: SessionClient, connection: http.client.HTTPConnection) -> None:
        self._proxy = proxy
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None

    @property
    def answered(self) -> bool:
        """Whether something of the response has come."""
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    def head(self) -> http.client.HTTPResponse:
        """Wait for the head of the response."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def event(self) -> Json:
        """Wait for the next message of the event stream."""
        data = b""
        while (line := self.head().readline().rstrip(b"\r\n")) or not data:
            data += line[5:].strip() if line.startswith(b"data:") else b""
        message: Json = json.loads(data)
        return message

    def answer(self) -> Answer:
        """Wait for the whole response; the connection is used again afterwards."""
        response = self.head()
        body = response.read()
        kind = response.getheader("Content-Type", "")
        if kind.startswith("text/event-stream"):
            found = [line[5:] for line in body.split(b"\n") if line.startswith(b"data:")]
            messages = [json.loads(data) for data in found if data.strip()]
        else:
            document = json.loads(body) if body else []
            messages = document if isinstance(document, list) else [document]
        self._proxy.give_back(self._connection)
        return Answer(response.status, response.headers, body, messages)

    def leave(self) -> None:
        """Go away without the answer."""
        self._proxy.close(self._connection)


class Session:
    """An MCP session at the proxy."""

    def __init__(self, proxy: SessionClient, id: str, path: str = "/mcp") -> None:
        self.proxy = proxy
        self.id = id
        self.path = path
        self._extra = {"Mcp-Session-Id": id}

    def post(self, body: bytes, **extra: str) -> Pending:
        """Send bytes as they are."""
        return self.proxy.send("POST", self.path, body, {**self._extra, **extra})

    def send(self, method: str, params: object = None, id: object = 1) -> Pending:
        """Send a request, or with None as its id a notification."""
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
        if id is None:
            del message["id"]
        return self.post(json.dumps(message).encode())

    def begin(self, tool: str, id: object = 1, **arguments: object) -> Pending:
        """Send a call of a tool."""
        return self.send("tools/call", {"name": tool, "arguments": arguments}, id)

    def call(self, tool: str, id: object = 1, **arguments: object) -> Answer:
        """Call a tool."""
        return self.begin(tool, id, **arguments).answer()

    def listen(self) -> Pending:
        """Open the standalone stream."""
        return self.proxy.send("GET", self.path, None, self._extra)

    def delete(self) -> Answer:
        """End the session."""
        return self.proxy.send("DELETE", self.path, None, self._extra).answer()


class SessionClient:
    """Sends requests to one address.

    Args:
        address: where the proxy listens.
        fields: sent with every request.
        source: the address to come from; empty for any.
    """

    def __init__(
        self, address: tuple[str, int], fields: Mapping[str, str], source: str = ""
    ) -> None:
        self._address = address
        self._source = (source, 0) if source else None
        self._extra = fields
        self._sessions: list[Session] = []
        self._idle: list[http.client.HTTPConnection] = []
        self._connections: set[http.client.HTTPConnection] = set()

    def send(
        self, method: str, path: str, body: bytes | None = None, extra: Mapping[str, str] = {}
    ) -> Pending:
        """Send a request on a connection of its own."""
        fields = {"Accept": "application/json, text/event-stream", **self._extra, **extra}
        if body is not None:
            fields["Content-Type"] = "application/json"
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = http.client.HTTPConnection(
                *self._address, timeout=PATIENCE_S, source_address=self._source
            )
            self._connections.add(connection)
        connection.request(method, path, body, fields)
        return Pending(self, connection)

    def get(self, path: str) -> Answer:
        """Get a page."""
        return self.send("GET", path).answer()

    def pages(self) -> tuple[int, int, int]:
        """The statuses of /health, /ready and /admin/health."""
        health, ready, admin = map(self.get, ("/health", "/ready", "/admin/health"))
        assert admin.body == health.body
        return health.status, ready.status, admin.status

    def begin_session(self, version: str = VERSION, path: str = "/mcp") -> Pending:
        """Send an initialize."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": info}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        return self.send("POST", path, json.dumps(message).encode())

    def session(self, version: str = VERSION, path: str = "/mcp") -> Session:
        """Open a session."""
        opened = self.begin_session(version, path).answer()
        assert opened.status == 200, (opened.status, opened.body)
        session = self.adopt(opened, path)
        assert session.send("notifications/initialized", id=None).answer().status == 202
        return session

    def adopt(self, opened: Answer, path: str = "/mcp") -> Session:
        """The session that this answer to initialize has opened."""
        session = Session(self, opened.fields["Mcp-Session-Id"], path)
        self._sessions.append(session)
        return session

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for the next request, unless it was closed."""
        if connection.sock is None:
            self._connections.discard(connection)
        else:
            self._idle.append(connection)

    def close(self, connection: http.client.HTTPConnection) -> None:
        """Close a connection, whatever it is doing."""
        self._connections.discard(connection)
        connection.close()

    def leave(self) -> None:
        """Close every connection."""
        for connection in list(self._connections):
            self.close(connection)
        self._idle.clear()

    def end_sessions(self) -> None:
        """End all sessions and connections."""
        for session in self._sessions:
            session.delete()
        self._sessions.clear()
        self.leave()

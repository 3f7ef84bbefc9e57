"""A client of the session era on the standard library alone, for what no SDK's client sends.

Owns one session and the reading of answers, as JSON or as a stream. It judges nothing.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any  # messages are JSON
from urllib.parse import urlsplit

ANSWER_WITHIN_S = 60
Json = dict[str, Any]


class Answer:
    """One HTTP answer; its messages are read as they are asked for."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.session_id = response.headers["Mcp-Session-Id"]
        self._response = response

    def messages(self) -> Iterator[Json]:
        """Each message of the body, up to its end; arrays are flattened.

        Raises TimeoutError; a stream's comments alone keep no reader waiting for ever.
        """
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        if self._response.headers.get_content_type() == "text/event-stream":
            while line := self._response.readline():
                if time.monotonic() > deadline_s:
                    raise TimeoutError("not at its end in time")
                if line.startswith(b"data:") and line[5:].strip():
                    yield from flat(json.loads(line[5:]))
        else:
            body = self._response.read()
            yield from flat(json.loads(body)) if body else []


class RawClient:
    """One session, open after `initialize` and until the end of the `with` block."""

    def __init__(self, url: str, version: str) -> None:
        self._parts = urlsplit(url)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        hello = request(
            0,
            "initialize",
            protocolVersion=version,
            capabilities={"sampling": {}},
            clientInfo={"name": "raw", "version": "1"},
        )
        answer = self.post(hello)
        [initialized] = answer.messages()
        self.version: str = initialized["result"]["protocolVersion"]
        self._headers |= {"Mcp-Session-Id": answer.session_id, "MCP-Protocol-Version": self.version}
        assert self.post(notification("notifications/initialized")).status == 202

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._send("DELETE", b"")

    def post(self, body: Json | list[Json]) -> Answer:
        """Send a message, or an array of them."""
        return Answer(self._send("POST", json.dumps(body).encode()))

    def _send(self, method: str, body: bytes) -> http.client.HTTPResponse:
        """Send on a connection of its own, which its answer closes."""
        assert self._parts.hostname
        connection = http.client.HTTPConnection(
            self._parts.hostname, self._parts.port, timeout=ANSWER_WITHIN_S
        )
        headers = self._headers | {"Connection": "close"}
        connection.request(method, self._parts.path, body, headers)
        return connection.getresponse()


def request(id: int | str, method: str, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def notification(method: str, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def call(id: int | str, tool: str, **arguments: Any) -> Json:
    return request(id, "tools/call", name=tool, arguments=arguments)


def flat(body: Json | list[Json]) -> list[Json]:
    return body if isinstance(body, list) else [body]

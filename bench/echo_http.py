"""The upstream of the benchmarks: an MCP server over HTTP that does as little as one can.

It reads what the load generator and the proxies send, not all of HTTP: a head, a Content-Length, a
body. Whatever is measured in front of it must be slower than it is.

python echo_http.py PORT [stateless | failing | slots]: without ids of sessions; the same, and every
call is answered with 500; calls take 50 ms, and 32 are at work at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable

SLOTS, SLOT_S = 32, 0.05
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
SESSION = b"Mcp-Session-Id: of-the-upstream\r\n"
_EMPTY = b"HTTP/1.1 %d Done\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection, cut into its requests."""

    def __init__(self) -> None:
        self._ahead = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._ahead += data
        while (end := self._ahead.find(b"\r\n\r\n")) >= 0:
            head = self._ahead[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._ahead) < end + 4 + length:
                return
            body = self._ahead[end + 4:end + 4 + length]
            self._ahead = self._ahead[end + 4 + length:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        """Answer one request; its head is in lower case."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self._transport.write(data)


class Echo(Connection):
    """Answers everything at once."""

    def answer(self, head: bytes, body: bytes) -> None:
        """See `Connection`."""
        self.write(answer(head, body))


class Failing(Connection):
    """Opens sessions, and fails whatever else it is asked."""

    def answer(self, head: bytes, body: bytes) -> None:
        """See `Connection`."""
        called = b'"tools/call"' in body
        self.write(_EMPTY % 500 if called else answer(head, body, session=b""))


class Stateless(Connection):
    """Answers everything at once, and keeps nothing for anybody."""

    def answer(self, head: bytes, body: bytes) -> None:
        """See `Connection`."""
        self.write(answer(head, body, session=b""))


class Slots(Connection):
    """Has so many slots for calls, each of which takes its time; further calls wait for one."""

    free = SLOTS
    waiting: deque[Callable[[], None]] = deque()

    def answer(self, head: bytes, body: bytes) -> None:
        """See `Connection`."""
        if b'"tools/call"' not in body:
            self.write(answer(head, body, session=b""))
            return
        Slots.waiting.append(lambda: self._work(head, body))
        self._begin()

    def _begin(self) -> None:
        if Slots.free and Slots.waiting:
            Slots.free -= 1
            Slots.waiting.popleft()()

    def _work(self, head: bytes, body: bytes) -> None:
        def done() -> None:
            Slots.free += 1
            self.write(answer(head, body, session=b""))
            self._begin()

        asyncio.get_running_loop().call_later(SLOT_S, done)


KINDS = {"": Echo, "stateless": Stateless, "failing": Failing, "slots": Slots}


def answer(head: bytes, body: bytes, session: bytes = SESSION) -> bytes:
    """Answer one request."""
    if not body:
        return _EMPTY % (405 if head.startswith(b"get") else 200)
    message = json.loads(body)
    if "id" not in message:
        return _EMPTY % 202
    fields, params = b"", message.get("params", {})
    if message["method"] == "initialize":
        fields = session
        result = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo", "version": "1"},
        }
    else:
        text = params.get("arguments", {}).get("message", "")
        result = {"content": [{"type": "text", "text": text}], "isError": False}
    data = json.dumps(
        {"jsonrpc": "2.0", "id": message["id"], "result": result}, separators=(",", ":")
    ).encode()
    return _HEAD % (len(data), fields) + data


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    kind = KINDS["".join(sys.argv[2:])]
    server = await loop.create_server(kind, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

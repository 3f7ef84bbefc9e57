"""The upstream of the stream benchmarks: an MCP server whose GET streams send events by the clock.

python echo_sse.py PORT RATE COUNT: once COUNT streams are open, RATE events a second on each, one
write each; 0 for none, below 0 for as many as the reader takes. An event says when it was sent, on
the monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time

from echo_http import Connection

_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"jsonrpc":"2.0","method":"notifications/message",'
    b'"params":{"level":"info","data":%d}}\n\n'
)
_session_ids = itertools.count(1)


class Server(Connection):
    """One connection."""

    streams: set[Server] = set()

    def __init__(self) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.streams.discard(self)
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def send(self) -> None:
        """Send one event."""
        event = _EVENT % time.monotonic_ns()
        self.write(b"%x\r\n%b\r\n" % (len(event), event))

    def answer(self, head: bytes, body: bytes) -> None:
        """Answer one request, or open a stream."""
        if head.startswith(b"get"):
            self.write(_STREAM)
            self.streams.add(self)
            return
        message = json.loads(body) if body else {}
        if "id" not in message:
            self.write(_ACCEPTED)
            return
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"logging": {}},
            "serverInfo": {"name": "echo", "version": "1"},
        }
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        data = json.dumps(answer, separators=(",", ":")).encode()
        field = b"Mcp-Session-Id: session-%d\r\n" % next(_session_ids)
        self.write(_JSON % (len(data), field) + data)


async def by_the_clock(rate: float) -> None:
    """Send so many events a second on each stream, spread over the second."""
    while True:
        streams = list(Server.streams)
        if not streams:
            await asyncio.sleep(0.01)
        for number, stream in enumerate(streams):
            stream.send()
            # Sleeping once for every few keeps the clock's overhead small.
            if number % 8 == 7 or number == len(streams) - 1:
                await asyncio.sleep((number % 8 + 1) / (rate * len(streams)))


async def as_fast_as_it_goes() -> None:
    """Send on each stream whenever its reader takes more."""
    while True:
        for stream in list(Server.streams):
            if stream.writable.is_set():
                stream.send()
        await asyncio.sleep(0)


async def main() -> None:
    """Serve until killed."""
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=4096)
    while len(Server.streams) < int(sys.argv[3]):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    if rate > 0:
        await by_the_clock(rate)
    elif rate < 0:
        await as_fast_as_it_goes()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

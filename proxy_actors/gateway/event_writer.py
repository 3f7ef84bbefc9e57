"""Writes an event stream to a client, for as long as it is read.

Owns the framing of events: one event, one chunk, or the end of the connection for a 1.0 client; a
comment now and then on a silent stream. A connection may end before its stream, where the client is
told when to come back (MCP-S-20). Events carry ids, with which a client may come back for what
followed. A stream that could not be brought to its end is visibly truncated: no last chunk, the
connection is closed (HTTP-F7).

A stream on which nothing happens holds no greenlet: its events go through the outlet that it has
lent its subscriber, and whatever else is to be done wakes its connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from proxy_actors.actors.stream_directory import STANDALONE, event_id
from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.gateway.relay import CLOSE, Reader
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.stream import LookAgain
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_request import RequestHead
from proxy_actors.protocol.http1_write import LAST_CHUNK, chunk, response_head
from proxy_actors.protocol.sse import COMMENT_KEEPALIVE, encode_event
from proxy_actors.world.base import ByteStream, no_timer

KEEP_ALIVE_S = 15.0
SYNC_S_MAX = 1.0
_EVENT_STREAM: Fields = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventWriter:
    """Writes what a reader gets. Whoever makes it calls `end`, whatever comes of it.

    Args:
        response: whose fields pass on, and whose prelude is written first, as it is.
        close: whether the connection is to end after it.
    """

    __slots__ = (
        "_cancel_timer", "_chunked", "_client", "_close", "_number", "_reader", "_response",
        "_rest", "_resumable", "_until_s", "_wiring", "_written_s",
    )  # fmt: skip

    def __init__(
        self,
        client: ByteStream,
        reader: Reader,
        response: Response,
        head: RequestHead,
        wiring: Wiring,
        close: bool,
    ) -> None:
        self._client = client
        self._reader = reader
        # Until it has been begun with.
        self._response: Response | None = response
        self._wiring = wiring
        self._chunked = head.version == (1, 1)
        self._close = close or not self._chunked
        self._number = reader.after
        self._resumable = reader.primes and bool(reader.stream_id)
        connection_s_max = wiring.streams.limits.connection_s_max
        self._until_s = math.inf
        if self._resumable and connection_s_max:
            self._until_s = wiring.world.now_s() + connection_s_max
        self._written_s = 0.0
        # What the client did not take at once.
        self._rest = b""
        self._cancel_timer: Callable[[], None] = no_timer
        if head.method == b"GET":
            # A client that has gone needs no stream. A call's stream goes on: a client may have
            # closed its sending side only, and the call must run to its end (MCP-S-21).
            client.on_departure(reader.subscriber.end)

    @property
    def last(self) -> bytes:
        """The last message that was written."""
        return self._reader.subscriber.last

    def go_on(self, wake: Callable[[], object]) -> bool | None:
        """Write what there is; None when more is to come, and `wake` will be called once for it.

        At the end of the stream it says whether the connection can carry another request.

        Raises:
            StreamClosedError, DeadlineError: the client has gone, or reads too slowly.
        """
        self._cancel_timer()
        response, self._response = self._response, None
        if response is not None:
            self._begin(response.fields, response.prelude)
        subscriber, clock = self._reader.subscriber, self._wiring.world.now_s
        while True:
            messages = subscriber.take_unread()
            rest, self._rest = self._rest, b""
            if rest:
                self._write(rest)
            if messages:
                self._write(self._encoded(messages))
            now_s = clock()
            if subscriber.ended:
                if not subscriber.unread:
                    return self._finish()
            elif now_s >= self._until_s:
                self._wiring.meters.streams.closed_early += 1
                self._send_away()
                return self._finish()
            elif now_s >= self._written_s + KEEP_ALIVE_S:
                self._write(self._framed(COMMENT_KEEPALIVE))
            elif not subscriber.unread:
                subscriber.lend(self._write_now, wake)
                self._look_again(now_s)
                return None

    def tell(self, message: LookAgain) -> bool:
        """For its timer: have the connection go on where it is time for something."""
        clock = self._wiring.world.now_s
        now_s = clock()
        if now_s < self._due_s:
            self._look_again(now_s)
        else:
            self._reader.subscriber.wake()
        return True

    def end(self) -> None:
        """Write no more, and get no more. Idempotent."""
        self._cancel_timer()
        self._client.on_departure(None)
        self._reader.leave()

    @property
    def _due_s(self) -> float:
        """When something is to be written, even if nothing comes."""
        return min(self._written_s + KEEP_ALIVE_S, self._until_s)

    def _look_again(self, now_s: float) -> None:
        world = self._wiring.world
        self._cancel_timer = world.timer(self._due_s - now_s, self, LookAgain())

    def _begin(self, returned: Fields, prelude: bytes) -> None:
        self._wiring.meters.answers[2] += 1
        ours = [name for name, _ in _EVENT_STREAM]
        fields = [*_EVENT_STREAM, *(field for field in returned if field[0] not in ours)]
        if self._chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        if self._close:
            fields.append(CLOSE)
        self._sync()
        # An id that stands behind what is written first must not be told before it.
        first = self._framed(prelude)
        self._write(response_head(200, fields, date=self._wiring.date()), first, self._prime())

    def _sync(self) -> None:
        """Have the stream written down before its client knows of it, where it is to outlive us.

        So whoever names an event of it is told what became of it. A disk that hangs keeps nobody.
        """
        store = self._wiring.streams.store
        if store is None or not self._reader.stream_id:
            return
        waiter = self._wiring.world.waiter()
        store.sync(waiter.set)
        try:
            waiter.wait(self._wiring.world.now_s() + SYNC_S_MAX)
        except DeadlineError:
            pass

    def _finish(self) -> bool:
        subscriber = self._reader.subscriber
        if subscriber.slow:
            self._wiring.meters.streams.cut += 1
        if subscriber.cut:
            raise StreamClosedError("the client read too slowly")
        if self._wiring.draining and self._reader.stream_id.startswith(STANDALONE):
            self._send_away()
        if self._chunked:
            self._write(LAST_CHUNK)
        return not self._close

    def _write_now(self, messages: Sequence[bytes]) -> bool:
        """Write messages as far as the client takes them at once; whether that is all."""
        data = self._encoded(messages)
        written_bytes = self._client.write_now(data)
        clock = self._wiring.world.now_s
        self._written_s = clock()
        self._rest = data[written_bytes:]
        return not self._rest

    def _send_away(self) -> None:
        """Have the client come back for what follows: its connection ends, its stream does not."""
        if self._resumable:
            self._write(self._prime())

    def _prime(self) -> bytes:
        """Tell a client that knows it where the stream stands, and when to come back to it."""
        if not self._resumable:
            return b""
        id = event_id(self._reader.stream_id, self._number)
        retry_ms = self._wiring.streams.limits.retry_ms
        return self._framed(encode_event(b"", event=b"", id=id, retry_ms=retry_ms))

    def _encoded(self, messages: Sequence[bytes]) -> bytes:
        data = encode(messages, self._reader.stream_id, self._number)
        self._number += len(messages)
        self._wiring.meters.streams.sent += len(messages)
        return chunk(data) if self._chunked else data

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data

    def _write(self, *parts: bytes) -> None:
        self._client.write(parts, self._wiring.write_deadline_s(sum(map(len, parts))))
        self._written_s = self._wiring.world.now_s()


def encode(messages: Sequence[bytes], stream_id: str, number: int) -> bytes:
    """Encode messages that follow the event of this number."""
    if not stream_id:
        return b"".join([encode_event(data) for data in messages])
    if len(messages) == 1:
        return encode_event(messages[0], id=event_id(stream_id, number + 1))
    return b"".join(
        [
            encode_event(data, id=event_id(stream_id, number))
            for number, data in enumerate(messages, number + 1)
        ]
    )

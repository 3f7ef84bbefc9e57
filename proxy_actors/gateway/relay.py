"""From an answer to bytes on the client's connection.

Owns the framing towards clients: length or chunks, or the end of the connection for a 1.0 client;
one event, one chunk; a comment now and then on a silent stream. A connection may end before its
stream, where the client is told when to come back (MCP-S-20). Events carry ids, with which a
client may come back for what followed. A stream that could not be brought to its end is visibly
truncated: no last chunk, the connection is closed (HTTP-F7).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.stream_directory import STANDALONE, event_id
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.gateway.response import JSON_FIELDS, Response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.sessions import Session
from proxy_actors.messages.stream import Subscribe, Subscribed, Unsubscribe
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_request import RequestHead
from proxy_actors.protocol.http1_write import LAST_CHUNK, chunk, response_head
from proxy_actors.protocol.revisions import knows_priming
from proxy_actors.protocol.sse import COMMENT_KEEPALIVE, encode_event
from proxy_actors.world.base import ByteStream

KEEP_ALIVE_S = 15.0
SUBSCRIBE_S_MAX = 1.0
SYNC_S_MAX = 1.0
_CLOSE = (b"connection", b"close")
_EVENT_STREAM: Fields = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
# The answer to nearly every call; its two values are a number and our own date.
_JSON_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"date: %b\r\n\r\n"
)
# RFC 9110 section 8.6: no length with these.
_BODILESS = frozenset({204, 304})


class Reader:
    """A reader's stay at an event stream, ended whatever happens.

    Args:
        stream: the stream's name, or what a batch leaves its answers in.
        session: whose stream it is.
        after: the number of the last event that the client has seen, where it says so.

    Raises:
        ProxyActorsError: the stream cannot be read: it is not there any more, or has a reader.

    Attributes:
        stream_id: what the ids of its events begin with; none where nobody can come back.
        after: the first event that comes has the number after this one.
        primes: whether the client is told an id before there is an event.
    """

    def __init__(
        self,
        stream: str | Subscriber,
        wiring: Wiring,
        session: Session | None = None,
        after: int | None = None,
    ) -> None:
        self._wiring = wiring
        self._slot: Slot | None = None
        self._id = 0
        self.stream_id = ""
        self.after = 0
        self.primes = session is not None and knows_priming(session.version)
        if isinstance(stream, Subscriber):
            self.subscriber = stream
            return
        self._slot = wiring.streams.find(stream)
        self._id, self.subscriber = wiring.subscribers.enter()
        ask = Subscribe(self._id, "" if session is None else session.key, after)
        try:
            subscribed = self._slot.ask(ask, wiring.world.now_s() + SUBSCRIBE_S_MAX)
            if isinstance(subscribed, Subscribed):  # else there is no coming back to it
                self.stream_id, self.after = subscribed.stream_id, subscribed.after
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Get no more messages. Idempotent."""
        if self._slot is not None:
            self._slot.tell(Unsubscribe(self._id))
            self._wiring.subscribers.leave(self._id)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def write_response(
    client: ByteStream, response: Response, head: RequestHead | None, wiring: Wiring, close: bool
) -> bool:
    """Write an answer with a body; say whether the connection can carry another request.

    Args:
        head: of the request answered; None when it could not be read.
        close: whether the connection is to end after it.

    Raises:
        StreamClosedError, DeadlineError: the client has gone, or takes nothing.
    """
    if response.fields is JSON_FIELDS and response.status == 200 and not close:
        parts = [_JSON_HEAD % (len(response.body), wiring.date())]
    else:
        fields = list(response.fields)
        if response.status not in _BODILESS:
            fields.append((b"content-length", b"%d" % len(response.body)))
        if close:
            fields.append(_CLOSE)
        parts = [response_head(response.status, fields, date=wiring.date())]
    if response.body and (head is None or head.method != b"HEAD"):
        parts.append(response.body)
    wiring.meters.answers[response.status // 100] += 1
    client.write(parts, wiring.write_deadline_s(len(response.body)))
    return not close


def write_events(
    client: ByteStream,
    reader: Reader,
    head: RequestHead,
    wiring: Wiring,
    close: bool,
    fields: Fields,
    prelude: bytes = b"",
) -> bool:
    """Write an event stream to its end; say whether the connection can carry another request.

    Args:
        fields: what of the upstream's answer passes on.
        prelude: written first, as it is.

    Raises:
        StreamClosedError, DeadlineError: the client has gone, or reads too slowly.
    """
    wiring.meters.answers[2] += 1
    if head.method == b"GET":
        # A client that has gone needs no stream. A call's stream goes on: a client may have closed
        # its sending side only, and the call must run to its end (MCP-S-21).
        client.on_departure(reader.subscriber.end)
    try:
        return _Writer(client, head, wiring, close, reader).write(fields, prelude)
    finally:
        client.on_departure(None)


def messages_of(stream: str, session: Session, wiring: Wiring) -> Iterator[bytes]:
    """Read a call's stream to its end.

    Raises:
        StreamClosedError: not all of it was to be had.
    """
    with Reader(stream, wiring, session) as reader:
        while messages := reader.subscriber.take(math.inf):
            yield from messages
    if reader.subscriber.cut:
        raise StreamClosedError("the stream was cut")


class _Writer:
    """Writes what a reader gets."""

    def __init__(
        self, client: ByteStream, head: RequestHead, wiring: Wiring, close: bool, reader: Reader
    ) -> None:
        self._client = client
        self._wiring = wiring
        self._chunked = head.version == (1, 1)
        self._close = close or not self._chunked
        self._reader = reader
        self._number = reader.after
        self._resumable = reader.primes and bool(reader.stream_id)
        connection_s_max = wiring.streams.limits.connection_s_max
        self._until_s = math.inf
        if self._resumable and connection_s_max:
            self._until_s = wiring.world.now_s() + connection_s_max
        self._written_s = 0.0
        # What the client did not take at once.
        self._rest = b""

    def write(self, returned: Fields, prelude: bytes) -> bool:
        ours = [name for name, _ in _EVENT_STREAM]
        fields = [*_EVENT_STREAM, *(field for field in returned if field[0] not in ours)]
        if self._chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        if self._close:
            fields.append(_CLOSE)
        self._sync()
        # An id that stands behind what is written first must not be told before it.
        first = self._framed(prelude) if prelude else []
        self._write([response_head(200, fields, date=self._wiring.date()), *first, *self._prime()])
        self._write_messages(self._reader.subscriber)
        if self._reader.subscriber.slow:
            self._wiring.meters.streams.cut += 1
        if self._reader.subscriber.cut:
            raise StreamClosedError("the client read too slowly")
        if self._wiring.draining and self._reader.stream_id.startswith(STANDALONE):
            self._send_away()
        if self._chunked:
            self._write([LAST_CHUNK])
        return not self._close

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

    def _write_messages(self, subscriber: Subscriber) -> None:
        """Write messages as they come, and a comment where none does for a while."""
        while True:
            silent, messages = False, []
            try:
                next_s = min(self._written_s + KEEP_ALIVE_S, self._until_s)
                messages = subscriber.take(next_s, self._write_now)
            except DeadlineError:
                silent = True
            if self._rest:
                rest, self._rest = self._rest, b""
                self._write([rest])
            elif silent:
                self._keep_alive()
            elif not messages:
                return
            if messages:
                self._write(self._encoded(messages))
            if self._wiring.world.now_s() >= self._until_s and not subscriber.ended:
                self._wiring.meters.streams.closed_early += 1
                self._send_away()
                return

    def _write_now(self, messages: Sequence[bytes]) -> bool:
        """Write messages as far as the client takes them at once; whether that is all."""
        data = b"".join(self._encoded(messages))
        written_bytes = self._client.write_now(data)
        self._rest = data[written_bytes:]
        self._written_s = self._wiring.world.now_s()
        return not self._rest

    def _keep_alive(self) -> None:
        if self._wiring.world.now_s() >= self._written_s + KEEP_ALIVE_S:
            self._write(self._framed(COMMENT_KEEPALIVE))

    def _send_away(self) -> None:
        """Have the client come back for what follows: its connection ends, its stream does not."""
        if self._resumable:
            self._write(self._prime())

    def _prime(self) -> list[bytes]:
        """Tell a client that knows it where the stream stands, and when to come back to it."""
        if not self._resumable:
            return []
        id = event_id(self._reader.stream_id, self._number)
        retry_ms = self._wiring.streams.limits.retry_ms
        return self._framed(encode_event(b"", event=b"", id=id, retry_ms=retry_ms))

    def _encoded(self, messages: Sequence[bytes]) -> list[bytes]:
        data = encode(messages, self._reader.stream_id, self._number)
        self._number += len(messages)
        self._wiring.meters.streams.sent += len(messages)
        return self._framed(data)

    def _framed(self, data: bytes) -> list[bytes]:
        return list(chunk(data)) if self._chunked else [data]

    def _write(self, parts: list[bytes]) -> None:
        self._client.write(parts, self._wiring.write_deadline_s(sum(map(len, parts))))
        self._written_s = self._wiring.world.now_s()


def encode(messages: Sequence[bytes], stream_id: str, number: int) -> bytes:
    """Encode messages that follow the event of this number."""
    if not stream_id:
        return b"".join([encode_event(data) for data in messages])
    return b"".join(
        [
            encode_event(data, id=event_id(stream_id, number))
            for number, data in enumerate(messages, number + 1)
        ]
    )

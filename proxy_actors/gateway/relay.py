"""From an answer to bytes on the client's connection, and where an answer that is a stream is read.

Owns the framing of answers that have a body: their length, or the end of the connection for a 1.0
client. `gateway/event_writer.py` writes event streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import StreamClosedError
from proxy_actors.gateway.response import JSON_FIELDS, Response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.sessions import Session
from proxy_actors.messages.stream import Subscribe, Subscribed, Unsubscribe
from proxy_actors.protocol.http1_request import RequestHead
from proxy_actors.protocol.http1_write import response_head
from proxy_actors.protocol.revisions import knows_priming
from proxy_actors.world.base import ByteStream

SUBSCRIBE_S_MAX = 1.0
CLOSE = (b"connection", b"close")
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
            fields.append(CLOSE)
        parts = [response_head(response.status, fields, date=wiring.date())]
    if response.body and (head is None or head.method != b"HEAD"):
        parts.append(response.body)
    wiring.meters.answers[response.status // 100] += 1
    client.write(parts, wiring.write_deadline_s(len(response.body)))
    return not close


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

"""One request to an HTTP upstream and its answer: lease, parser, decoder and unread bytes.

Driven inline by the client's greenlet while that is cheapest. When the answer turns out to be an
event stream with more than the answer in it, the stream's actor takes the exchange over and its own
reader goes on where the client's greenlet stopped. Owns its lease, and gives it back once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.refs import Ref
from proxy_actors.errors import (
    DeadlineError,
    Executed,
    FailedError,
    MessageError,
    Reason,
    StreamClosedError,
)
from proxy_actors.gateway.lease import Lease
from proxy_actors.messages.stream import EventReceived, MessageKind, SourceEnded
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.headers import first, media_type
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead, ResponseParser
from proxy_actors.protocol.sse import SseDecoder

READ_BYTES_MAX = 65_536
BODY_BYTES_MAX = 16 * 1024 * 1024
EVENT_BYTES_MAX = 16 * 1024 * 1024
EVENT_STREAM = b"text/event-stream"
_KINDS = {
    jsonrpc.Kind.REQUEST: MessageKind.REQUEST,
    jsonrpc.Kind.NOTIFICATION: MessageKind.NOTIFICATION,
    jsonrpc.Kind.RESPONSE: MessageKind.RESPONSE,
}


class HttpExchange(EventSource):
    """The upstream's side of an exchange.

    Args:
        lease: the connection, for this exchange alone.
        method: the HTTP method, which decides how the answer is framed.
        upstream: the upstream's name, for errors.
        request_id: the raw JSON id that the final answer will carry; None when there is none.
    """

    def __init__(
        self,
        lease: Lease,
        method: bytes,
        limits: HttpLimits,
        upstream: str,
        request_id: bytes | None,
    ) -> None:
        self._lease = lease
        self._parser = ResponseParser(limits, method)
        self._decoder = SseDecoder(EVENT_BYTES_MAX)
        self._upstream = upstream
        self._request_id = request_id
        self._unread: list[jsonrpc.Message] = []
        self.on_cancel: Callable[[], None] | None = None

    def send(self, parts: list[bytes], deadline_s: float) -> ResponseHead:
        """Write the request and read the answer's head.

        Raises:
            FailedError: the upstream closed, broke the protocol or was late. The lease is over.
        """
        try:
            self._write(parts, deadline_s)
            while self._parser.head is None:
                self._read(deadline_s)
            return self._parser.head
        except BaseException:
            self.abandon()
            raise

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer is an event stream."""
        head = self._parser.head
        value = None if head is None else first(head.fields, b"content-type")
        return value is not None and media_type(value) == EVENT_STREAM

    def body(self, deadline_s: float) -> bytes:
        """Read the whole body and give the lease back.

        Raises:
            FailedError: as `send`; also for a body beyond BODY_BYTES_MAX.
        """
        parser = self._parser
        reusable = False
        try:
            while not parser.complete:
                self._read(deadline_s)
                if parser.body_bytes > BODY_BYTES_MAX:
                    raise self._failed("the upstream's answer is too large")
            reusable = parser.reusable
            return parser.take_body()
        finally:
            head = parser.head
            timeout_s = None if head is None else head.keep_alive_timeout_s
            self._lease.release(reusable, None if timeout_s is None else max(timeout_s - 1.0, 0.0))

    def discard_body(self, deadline_s: float) -> None:
        """Read and forget the body, and give the lease back; never fails."""
        try:
            self.body(deadline_s)
        except FailedError:
            pass  # the answer's status was all that mattered

    def first_message(self, deadline_s: float) -> jsonrpc.Message | None:
        """Read an event stream up to its first message; None when none comes by the deadline.

        The message stays unread for whoever reads on.

        Raises:
            FailedError: as `send`; also when the stream ends without a message.
        """
        try:
            while not self._unread:
                self._unread += self._decode(self._parser.take_body())
                if not self._unread:
                    self._more(deadline_s)
            return self._unread[0]
        except FailedError as error:
            if error.reason is Reason.UPSTREAM_TIMEOUT:
                return None
            self.abandon()
            raise
        except BaseException:
            self.abandon()
            raise

    def next_message(self, deadline_s: float) -> jsonrpc.Message:
        """Read one message of an event stream.

        Raises:
            FailedError: as `send`; also when the stream ends without a message.
        """
        if self.first_message(deadline_s) is None:
            self.abandon()
            raise self._failed("the upstream did not answer in time", Reason.UPSTREAM_TIMEOUT)
        return self._unread.pop(0)

    def abandon(self) -> None:
        """Give the lease back with the connection in mid-message. Idempotent."""
        self._lease.release(False)

    def is_final(self, message: jsonrpc.Message) -> bool:
        """Whether this is the answer to the request."""
        return message.kind is jsonrpc.Kind.RESPONSE and message.id == self._request_id

    @property
    def complete(self) -> bool:
        """Whether the answer has been read to its end."""
        return self._parser.complete

    def finish(self, deadline_s: float) -> None:
        """Read what follows the final message, its end mostly, and give the lease back."""
        try:
            while not self._parser.complete:
                self._read(deadline_s)
                self._parser.take_body()
        except FailedError:
            pass  # the answer is out; only the connection's fate is open
        finally:
            self._lease.release(self._parser.reusable)

    def became_stream(self) -> None:
        """Count the lease as a stream."""
        self._lease.became_stream()

    # As the source of a stream's actor.

    def read_into(self, stream: Ref) -> None:
        """Tell every message of the event stream to its actor, and its end."""
        ended = SourceEnded()
        try:
            while self._tell(stream) and not self._parser.complete:
                self._read(math.inf)
                self._unread += self._decode(self._parser.take_body())
        except FailedError as error:
            self._tell(stream)
            ended = SourceEnded(error.reason, error.text, error.executed)
        finally:
            self._lease.release(self._parser.reusable)
            stream.tell(ended)

    def close(self, cancel: bool) -> None:
        """End the reading by closing the connection."""
        self._lease.stream.close()
        if cancel and self.on_cancel is not None:
            self.on_cancel()

    def _tell(self, stream: Ref) -> bool:
        """Tell what has been read; False once the final answer was among it."""
        messages, self._unread = self._unread, []
        for message in messages:
            final = self.is_final(message)
            event = EventReceived(message.raw, _KINDS[message.kind], message.id, final)
            if not stream.tell_when_room(event, math.inf) or final:
                return False
        return True

    def _write(self, parts: list[bytes], deadline_s: float) -> None:
        try:
            self._lease.stream.write(parts, deadline_s)
        except DeadlineError as error:
            text = "the upstream did not take the request in time"
            raise self._failed(text, Reason.UPSTREAM_TIMEOUT) from error
        except StreamClosedError as error:
            text = "the upstream closed the connection before it took the request"
            raise self._failed(text, Reason.UPSTREAM_CLOSED) from error

    def _read(self, deadline_s: float) -> None:
        try:
            data = self._lease.stream.read(READ_BYTES_MAX, deadline_s)
        except DeadlineError as error:
            text = "the upstream did not answer in time"
            raise self._failed(text, Reason.UPSTREAM_TIMEOUT) from error
        except StreamClosedError as error:
            text = "the upstream closed the connection before its answer was complete"
            raise self._failed(text, Reason.UPSTREAM_CLOSED) from error
        try:
            if data:
                self._parser.feed(data)
            else:
                self._parser.end_of_input()
        except FailedError as error:
            error.upstream = self._upstream
            raise

    def _more(self, deadline_s: float) -> None:
        if self._parser.complete:
            text = "the upstream ended its stream without an answer"
            raise self._failed(text, Reason.UPSTREAM_CLOSED)
        self._read(deadline_s)

    def _decode(self, data: bytes) -> list[jsonrpc.Message]:
        messages: list[jsonrpc.Message] = []
        for event in self._decoder.feed(data) if data else ():
            if event.data and event.event == b"message":
                messages += self.admit(event.data)
        if self._decoder.overflowed:
            raise self._failed("an event of the upstream is too large")
        return messages

    def admit(self, data: bytes) -> tuple[jsonrpc.Message, ...]:
        """Judge what the upstream sent; several messages where it sent a batch.

        Raises:
            FailedError: it is no JSON-RPC.
        """
        try:
            admitted = jsonrpc.admit(data)
        except MessageError as error:
            raise self._failed(f"the upstream sent no valid JSON-RPC: {error.text}") from error
        return admitted if isinstance(admitted, tuple) else (admitted,)

    def _failed(self, text: str, reason: Reason = Reason.UPSTREAM_PROTOCOL) -> FailedError:
        return FailedError(reason, text, executed=Executed.UNKNOWN, upstream=self._upstream)

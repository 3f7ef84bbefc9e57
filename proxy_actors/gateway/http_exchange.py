"""One request to an HTTP upstream and its answer: lease, parser, decoder and unread messages.

Driven inline by the client's greenlet while that is cheapest. When the answer turns out to be an
event stream with more than the answer in it, a source (`gateway/http_source.py`) takes it over, and
its reader goes on where the client's greenlet stopped. Owns its lease, and gives it back once.
"""

from __future__ import annotations

import logging
import math

from proxy_actors.actors.meters import CallMeter
from proxy_actors.errors import (
    DeadlineError,
    Executed,
    FailedError,
    MessageError,
    Reason,
    StreamClosedError,
)
from proxy_actors.gateway.exchange import request_name
from proxy_actors.gateway.lease import Lease
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead, ResponseParser
from proxy_actors.protocol.sse import SseDecoder
from proxy_actors.world.base import World

READ_BYTES_MAX = 65_536
# Of an event stream, so that the events of one that floods us keep nobody waiting for long.
EVENTS_BYTES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024 * 1024
EVENT_BYTES_MAX = 16 * 1024 * 1024
EVENT_STREAM = b"text/event-stream"
JSON_TYPE = b"application/json"
# Servers send the end of a stream in a segment of its own, right behind the answer.
TAIL_S_MAX = 1.0

logger = logging.getLogger("proxy_actors.http")


class HttpExchange:
    """The upstream's side of an exchange.

    Args:
        lease: the connection, for this exchange alone.
        method: the HTTP method, which decides how the answer is framed.
        upstream: the upstream's name, for errors.
        exchange_id: whose it is, for the log.
        request_id: the raw JSON id that the final answer will carry; None when there is none.
        meter: takes the time to the answer's head, if anybody does.
    """

    # What most exchanges never change stays with the class.
    repeats = False
    """Whether the request was sent before, on a connection that was then found closed."""
    resumed_after = b""
    """The id behind which the event stream was opened, if it is not its beginning."""
    heard = placed = False
    """Whether any event with data has come, and any that says where the stream is."""
    _decoder: SseDecoder | None = None
    _unread: tuple[jsonrpc.Message, ...] = ()
    _failure: FailedError | None = None
    dropped_error: FailedError | None = None
    """Why the latest event was dropped; it may have been meant as the answer."""
    dropped = 0
    """How many events were no message, and were left out."""
    _written = False

    def __init__(
        self,
        world: World,
        lease: Lease,
        method: bytes,
        limits: HttpLimits,
        upstream: str,
        exchange_id: int,
        request_id: bytes | None,
        meter: CallMeter | None = None,
    ) -> None:
        self._world = world
        self._lease = lease
        self._parser = ResponseParser(limits, method)
        self._upstream = upstream
        self._exchange_id = exchange_id
        self.request_id = request_id
        self._meter = meter

    def send(self, parts: list[bytes], deadline_s: float) -> ResponseHead:
        """Write the request and read the answer's head.

        Raises:
            FailedError: the upstream closed, broke the protocol or was late. The lease is over.
        """
        clock = self._world.now_s
        began_s = clock()
        try:
            try:
                self._lease.stream.write(parts, deadline_s)
                self._written = True
            except DeadlineError as error:
                text = "the upstream did not take the request in time"
                raise self._failed(text, Reason.UPSTREAM_TIMEOUT) from error
            except StreamClosedError:
                pass  # it may have answered, with a refusal, before it stopped reading
            while (head := self._parser.head) is None:
                self._read(deadline_s)
            if self._meter is not None:
                self._meter.first_byte.add(clock() - began_s)
            return head
        except BaseException:
            self.abandon()
            raise

    @property
    def found_closed(self) -> bool:
        """Whether the upstream may have closed the connection as idle, the request unread."""
        return not self._lease.fresh and not self._parser.started

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer is an event stream."""
        head = self._parser.head
        return head is not None and head.media_type == EVENT_STREAM

    @property
    def complete(self) -> bool:
        """Whether the answer has been read to its end."""
        return self._parser.complete

    def answer(self, deadline_s: float) -> jsonrpc.Message:
        """Read the answer to the request, where it is JSON, and give the lease back.

        Raises:
            FailedError: as `body`; also for anything that is not the answer.
        """
        fits = False
        try:
            parser = self._parser
            body = parser.take_body() if parser.complete else self._read_body(deadline_s)
            if self.request_id is not None:
                plain = jsonrpc.plain_answer(body, self.request_id)
                if plain is not None:
                    fits = True
                    return plain
            messages = self.admit(body)
            fits = len(messages) == 1 and self.is_final(messages[0])
            if not fits:
                raise self._failed("the upstream answered something else than was asked")
            return messages[0]
        finally:
            self._release(fits)

    def body(self, deadline_s: float) -> bytes:
        """Read the body of whatever else was said, and give the lease back.

        Raises:
            FailedError: as `send`; also for a body beyond BODY_BYTES_MAX.
        """
        fits = False
        try:
            body = self._read_body(deadline_s)
            fits = not self._answers_another(body)
            return body
        finally:
            self._release(fits)

    def some_of_body(self, deadline_s: float) -> bytes:
        """Read some of the body, of an event stream that is decoded elsewhere; b"" at its end.

        Raises:
            FailedError: as `send`, but the lease goes on.
        """
        while not (data := self._parser.take_body()) and not self._parser.complete:
            self._read(deadline_s, EVENTS_BYTES_MAX)
        return data

    def first_message(self, deadline_s: float) -> jsonrpc.Message | None:
        """Read an event stream up to its first message; None when none comes by the deadline.

        The message stays unread for whoever reads on.

        Raises:
            FailedError: as `send`; also when the stream ends without a message.
        """
        try:
            if self.await_message(deadline_s):
                return self._unread[0]
            text = "the upstream ended its stream without an answer"
            raise self.dropped_error or self._failed(text, Reason.UPSTREAM_CLOSED)
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
        message, *rest = self._unread
        self._unread = tuple(rest)
        return message

    def is_final(self, message: jsonrpc.Message) -> bool:
        """Whether this is the answer to the request."""
        return (
            message.kind is jsonrpc.RESPONSE
            and message.id is not None
            and message.id == self.request_id
        )

    def finish(self) -> None:
        """Read what follows the answer, its end mostly, and give the lease back."""
        deadline_s = self._world.now_s() + TAIL_S_MAX
        try:
            while not self._parser.complete:
                self._read(deadline_s)
                self._parser.take_body()
        except FailedError:
            pass  # the answer is out; only the connection's fate is open
        finally:
            self._release()

    def abandon(self) -> None:
        """Give the lease back with the connection in mid-message. Idempotent."""
        self._lease.release(False)

    def became_stream(self) -> None:
        """Count the lease as a stream."""
        self._lease.became_stream()

    # As an event stream that is read to its end.

    @property
    def last_event_id(self) -> bytes:
        """The id of the last event that came whole, here or before; empty where there is none."""
        return self.resumed_after if self._decoder is None else self._decoder.last_event_id

    @property
    def retry_ms(self) -> int | None:
        """How long the upstream asks to be left alone before its stream is opened anew."""
        return None if self._decoder is None else self._decoder.retry_ms

    def discard(self) -> None:
        """Have the connection closed under whoever reads it; for actors. Idempotent."""
        self._lease.discard()

    def await_message(self, deadline_s: float, silence_s_max: float = math.inf) -> bool:
        """Read until a message is unread; False when the stream has ended before.

        Args:
            silence_s_max: how long nothing may come at all, not even a comment.

        Raises:
            FailedError: as `send`, but not before what came before it has been read.
        """
        while True:
            self._decode(self._parser.take_body())
            if self._unread:
                return True
            if self._failure is not None:
                raise self._failure
            if self._parser.complete:
                return False
            if silence_s_max < math.inf:
                deadline_s = self._world.now_s() + silence_s_max
            try:
                self._read(deadline_s, EVENTS_BYTES_MAX)
            except FailedError as error:
                if error.reason is Reason.UPSTREAM_TIMEOUT:
                    raise
                self._failure = error  # told when what came before it has been read

    def take_messages(self) -> tuple[jsonrpc.Message, ...]:
        """Take what `await_message` has found."""
        messages, self._unread = self._unread, ()
        return messages

    # Reading and writing.

    def _decode(self, data: bytes) -> None:
        if self._decoder is None:
            self._decoder = SseDecoder(EVENT_BYTES_MAX, self.resumed_after)
        try:
            for event in self._decoder.feed(data) if data else ():
                if event.id:
                    self.placed = True
                if event.data:
                    self.heard = True
                    if event.event == b"message":
                        self._take_event(event.data)
            if self._decoder.overflowed:
                raise self._failed("an event of the upstream is too large")
        except FailedError as error:
            self._failure = error

    def _take_event(self, data: bytes) -> None:
        """Take the messages of an event. What is none is dropped, and the call goes on.

        Raises:
            FailedError: it was meant to be the answer, and no other will come.
        """
        try:
            self._unread += self.admit(data)
            if self.dropped_error is not None:
                self.dropped_error = None
        except FailedError as error:
            if self.request_id is not None and jsonrpc.answered_id(data) == self.request_id:
                raise
            self.dropped_error = error
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # a flood is told as often as it doubles
                logger.warning(
                    "event_dropped upstream=%s request=%s count=%d error=%s",
                    self._upstream, request_name(self._exchange_id), self.dropped, error.text,
                )

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

    def _read(self, deadline_s: float, bytes_max: int = READ_BYTES_MAX) -> None:
        try:
            data = self._lease.stream.read(bytes_max, deadline_s)
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

    def _read_body(self, deadline_s: float) -> bytes:
        parser = self._parser
        while not parser.complete:
            self._read(deadline_s)
            if parser.body_bytes > BODY_BYTES_MAX:
                raise self._failed("the upstream's answer is too large")
        return parser.take_body()

    def _answers_another(self, body: bytes) -> bool:
        """Whether a body names another request than this one."""
        try:
            messages = self.admit(body) if body else ()
        except FailedError:
            return False
        return any(x.id is not None and x.id != self.request_id for x in messages)

    def _release(self, fits: bool = True) -> None:
        """Give the lease back, with the connection fit for reuse if it is.

        Args:
            fits: whether what was read answers this request. What does not shows that the two
                sides are out of step: the answer that is still to come would be taken for one to
                whoever has the connection next.
        """
        parser = self._parser
        timeout_s = None if parser.head is None else parser.head.keep_alive_timeout_s
        idle_s_max = None if timeout_s is None else max(timeout_s - 1.0, 0.0)
        self._lease.release(fits and self._written and parser.reusable, idle_s_max)

    def _failed(self, text: str, reason: Reason = Reason.UPSTREAM_PROTOCOL) -> FailedError:
        return FailedError(reason, text, executed=Executed.UNKNOWN, upstream=self._upstream)

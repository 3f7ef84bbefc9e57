"""One request to an HTTP upstream and its answer: lease, parser, decoder and unread messages.

Driven inline by the client's greenlet while that is cheapest. When the answer turns out to be an
event stream with more than the answer in it, a source (`gateway/http_source.py`) takes it over, and
its reader goes on where the client's greenlet stopped. Owns its lease, and gives it back once.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.meters import CallMeter
from proxy_actors.errors import (
    DeadlineError,
    Executed,
    FailedError,
    MessageError,
    Reason,
    StreamClosedError,
    let_go,
)
from proxy_actors.gateway.http_events import UpstreamEvents, renamed
from proxy_actors.gateway.lease import Lease
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead, ResponseParser
from proxy_actors.world.base import World

READ_BYTES_MAX = 65_536
# Of an event stream, so that the events of one that floods us keep nobody waiting for long.
EVENTS_BYTES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024 * 1024
EVENT_STREAM = b"text/event-stream"
JSON_TYPE = b"application/json"
# Servers send the end of a stream in a segment of its own, right behind the answer.
TAIL_S_MAX = 1.0


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
    sent_as: bytes | None = None
    """The raw JSON id that the request has at the upstream, where that is not `request_id`."""
    repeats = False
    """Whether the request was sent before, on a connection that was then found closed."""
    resumed_after = b""
    """The id behind which the event stream was opened, if it is not its beginning."""
    _events: UpstreamEvents | None = None
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

    @property
    def ended(self) -> bool:
        """Whether no more of an event stream can be read."""
        events = self._events
        return self._parser.complete or (events is not None and events.failure is not None)

    def answer(self, deadline_s: float) -> jsonrpc.Message:
        """Read the answer to the request, where it is JSON, and give the lease back.

        Raises:
            FailedError: as `body`; also for anything that is not the answer.
        """
        fits = False
        try:
            parser = self._parser
            body = parser.take_body() if parser.complete else self._read_body(deadline_s)
            if self.request_id is not None and self.sent_as is None:
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
                return self.events.unread[0]
            text = "the upstream ended its stream without an answer"
            raise self.events.dropped_error or self._failed(text, Reason.UPSTREAM_CLOSED)
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
        message, *rest = self.events.take()
        self.events.unread = tuple(rest)
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
    def events(self) -> UpstreamEvents:
        """What the event stream has said so far."""
        if self._events is None:
            self._events = UpstreamEvents(
                self._upstream, self._exchange_id, self.request_id, self.resumed_after,
                self.sent_as,
            )
        return self._events

    def discard(self) -> None:
        """Have the connection closed under whoever reads it; for actors. Idempotent."""
        self._lease.discard()

    def await_message(self, deadline_s: float) -> bool:
        """Read until a message is unread; False when the stream has ended before.

        Raises:
            FailedError: as `send`, but not before what came before it has been read.
        """
        while True:
            events = self._decode()
            if events.unread:
                return True
            if events.failure is not None:
                raise events.failure
            if self._parser.complete:
                return False
            try:
                self._read(deadline_s, EVENTS_BYTES_MAX)
            except FailedError as error:
                if error.reason is Reason.UPSTREAM_TIMEOUT:
                    raise
                events.failure = let_go(error)  # told when what came before has been read

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called while there may be something for `read_messages`; None to unset.

        As `ByteStream.on_input`: by the loop, so it must not wait.
        """
        self._lease.stream.on_input(callback)

    def read_messages(self) -> tuple[jsonrpc.Message, ...]:
        """Read once, without waiting, and return the messages that are there then.

        That no more will come, `complete` or the events' `failure` say.
        """
        events = self._events or self.events
        try:
            data = self._lease.stream.read_now(EVENTS_BYTES_MAX)
            if data is None:
                return ()
            self._feed(data)
        except StreamClosedError as error:
            events.failure = let_go(self._cut_off(error))
        except FailedError as error:
            events.failure = let_go(error)
        data = self._parser.take_body()
        if data:
            events.feed(data)
        return events.take()

    def take_messages(self) -> tuple[jsonrpc.Message, ...]:
        """Take what has been read."""
        return self._decode().take()

    def _decode(self) -> UpstreamEvents:
        events, data = self.events, self._parser.take_body()
        if data:
            events.feed(data)
        return events

    # Reading and writing.

    def admit(self, data: bytes) -> tuple[jsonrpc.Message, ...]:
        """Judge what the upstream sent; several messages where it sent a batch.

        Raises:
            FailedError: it is no JSON-RPC.
        """
        try:
            admitted = jsonrpc.admit(data)
        except MessageError as error:
            raise self._failed(f"the upstream sent no valid JSON-RPC: {error.text}") from error
        messages = admitted if isinstance(admitted, tuple) else (admitted,)
        return renamed(messages, self.sent_as, self.request_id)

    def _read(self, deadline_s: float, bytes_max: int = READ_BYTES_MAX) -> None:
        try:
            data = self._lease.stream.read(bytes_max, deadline_s)
        except DeadlineError as error:
            text = "the upstream did not answer in time"
            raise self._failed(text, Reason.UPSTREAM_TIMEOUT) from error
        except StreamClosedError as error:
            raise self._cut_off(error) from error
        self._feed(data)

    def _feed(self, data: bytes) -> None:
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

    def _cut_off(self, error: StreamClosedError) -> FailedError:
        text = "the upstream closed the connection before its answer was complete"
        failed = self._failed(text, Reason.UPSTREAM_CLOSED)
        failed.__cause__ = error
        return failed

    def _failed(self, text: str, reason: Reason = Reason.UPSTREAM_PROTOCOL) -> FailedError:
        return FailedError(reason, text, executed=Executed.UNKNOWN, upstream=self._upstream)

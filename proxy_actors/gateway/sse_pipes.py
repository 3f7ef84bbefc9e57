"""The connections of one session at a server of HTTP+SSE, and the greenlets that serve them.

A part of `SseSession`, not an actor. One greenlet opens the stream as soon as there is something to
send, waits for the event that names the message endpoint (MCP-L-2), and reads to the end. Another
one POSTs what is queued, in order: what is no request has been accepted before anything behind it
is sent. Requests have greenlets of their own, because some servers answer a POST only after they
have handled the message, and a request may wait for what its client is yet to send.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from proxy_actors.actors.pipes import Pipes
from proxy_actors.actors.refs import Ref
from proxy_actors.errors import (
    DeadlineError,
    Executed,
    FailedError,
    MailboxFullError,
    MessageError,
    Reason,
    RefusedError,
    Side,
    let_go,
)
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_events import EVENT_BYTES_MAX
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_fields import Forwarded, UpstreamFields, UpstreamUrl
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.messages import stdio as m
from proxy_actors.messages.pool import Purpose
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.protocol.jsonrpc import admit
from proxy_actors.protocol.sse import Event, SseDecoder
from proxy_actors.world.base import Waiter, World

# From the first message to the event that says where to send it.
ENDPOINT_S_MAX = 10.0
ENDPOINT = b"endpoint"
# What may wait to be accepted, of one session; and how many of these may be requests.
UNACCEPTED_BYTES_MAX = 32 * 1024 * 1024
UNACCEPTED_MAX = 320
REQUESTS_MAX = 256
# How often POSTs are looked for that are still not answered although their calls are over.
SWEEP_S = 5.0
_ACCEPTED = frozenset({200, 201, 202, 204})

logger = logging.getLogger("proxy_actors.sse")


class SseServer:
    """What is known of one server of HTTP+SSE.

    Attributes:
        recognized: whether it named a message endpoint when a stream was opened last.
        clients: whose fields pass to it, and whose share of its connections a call has, by the
            calls that are being submitted.
    """

    def __init__(
        self, sender: HttpSender, url: UpstreamUrl, fields: UpstreamFields, upstream: str
    ) -> None:
        self.sender = sender
        self.url = url
        self.fields = fields
        self.upstream = upstream
        self.recognized = False
        self.clients: dict[int, Exchange] = {}


class _Post(msgspec.Struct, frozen=True):
    """A message to be sent, on behalf of whom; `asker` submitted the call that it is, if any."""

    data: bytes
    forwarded: Forwarded
    call_id: int | None
    asker: Exchange | None


class SsePipes(Pipes):
    """Moves the bytes of one session.

    Args:
        in_flight: whether a call is.
    """

    def __init__(
        self, world: World, server: SseServer, in_flight: Callable[[int], bool]
    ) -> None:
        self._world = world
        self._server = server
        self._in_flight = in_flight
        self._channel: Ref | None = None
        self._forwarded: Forwarded | None = None
        self._target = b""
        self._stream: HttpExchange | None = None
        self._queue: deque[_Post] = deque()
        self._unaccepted = self._unaccepted_bytes = 0
        self._unsent: set[int] = set()
        self._posting: dict[int, HttpExchange] = {}
        self._over: set[int] = set()
        self._looked_s = world.now_s()
        self._sender: Waiter | None = None
        self._ended = False
        self._garbage = 0

    def start(self, channel: Ref) -> None:
        """Wait for the first message, whose client the stream is opened for."""
        self._channel = channel

    def write(self, data: bytes, call_id: int | None) -> bool:
        """Queue one message; False when too much waits to be accepted."""
        bound = UNACCEPTED_MAX if call_id is None else REQUESTS_MAX
        full = self._unaccepted_bytes + len(data) > UNACCEPTED_BYTES_MAX
        if self._ended or full or self._unaccepted >= bound:
            return False
        asker = None if call_id is None else self._server.clients.get(call_id)
        forwarded = None if asker is None else asker.accepted.forwarded
        forwarded = forwarded or self._forwarded or Forwarded([])
        if call_id is not None:
            self._unsent.add(call_id)
        self._unaccepted += 1
        self._unaccepted_bytes += len(data)
        self._queue.append(_Post(data, forwarded, call_id, asker))
        if self._forwarded is None:
            self._forwarded = forwarded
            self._world.spawn("sse stream", self._run)
        self._wake_sender()
        return True

    def end(self) -> set[int]:
        """Close every connection; return the calls whose requests never left."""
        self._ended = True
        self._queue.clear()
        self._wake_sender()
        for exchange in (self._stream, *self._posting.values()):
            if exchange is not None:
                exchange.discard()
        return self._unsent

    def log_garbage(self, text: str) -> None:
        """Log what is wrong with an event; a flood of them as often as their number doubles."""
        self._garbage += 1
        if self._garbage & (self._garbage - 1) == 0:
            logger.warning(
                "event_dropped upstream=%s count=%d error=%s",
                self._server.upstream, self._garbage, text,
            )

    def give_up(self, text: str) -> None:
        """The server is of no use: log why, and end the session."""
        logger.warning("session_given_up upstream=%s text=%s", self._server.upstream, text)
        self._tell_ended(self._failed("the upstream has hung", Reason.UPSTREAM_TIMEOUT))

    # The stream.

    def _run(self) -> None:
        """Open the stream, and read it to its end."""
        ended = FailedError(Reason.INTERNAL, "the session's stream was not read to its end")
        try:
            self._read()
        except FailedError as error:
            ended = let_go(error)
        finally:
            self._tell_ended(ended)  # and the session closes the stream

    def _read(self) -> None:
        """Tell every message of the stream, until it ends.

        Raises:
            FailedError: what ended it.
        """
        decoder = SseDecoder(EVENT_BYTES_MAX)
        events = self._open(decoder, self._world.now_s() + ENDPOINT_S_MAX)
        self._world.spawn("sse sender", self._send_all)
        while all(self._tell_messages(event) for event in events):
            events = self._next_events(decoder, math.inf)

    def _open(self, decoder: SseDecoder, deadline_s: float) -> list[Event]:
        """Open the stream up to its first event; return those that came with it."""
        server = self._server
        try:
            assert self._forwarded is not None
            parts = [server.fields.head_of_get(self._forwarded, None)]
            stream = self._begin(b"GET", parts, Purpose.STREAM, deadline_s)
            self._stream = stream
            head = stream.send(parts, deadline_s)
            if head.status != 200 or not stream.is_event_stream:
                raise self._not_offered(head)
            events: list[Event] = []
            while not events:
                events = self._next_events(decoder, deadline_s)
            first, *others = events
            if first.event != ENDPOINT:
                raise self._failed("the upstream did not name its message endpoint first")
        except FailedError:
            server.recognized = False
            raise
        server.recognized = True
        try:
            self._target = server.url.resolve(first.data)
        except FailedError as error:
            error.upstream = server.upstream
            logger.warning("endpoint_refused upstream=%s error=%s", server.upstream, error.text)
            raise
        return others

    def _next_events(self, decoder: SseDecoder, deadline_s: float) -> list[Event]:
        """Read on; what is returned may be no event yet.

        Raises:
            FailedError: the stream has ended, or is late.
        """
        assert self._stream is not None
        if decoder.overflowed:
            raise self._failed("an event of the upstream is too large")
        data = self._stream.some_of_body(deadline_s)
        if not data:
            raise self._failed("the upstream ended the session's stream", Reason.UPSTREAM_CLOSED)
        return decoder.feed(data)

    def _tell_messages(self, event: Event) -> bool:
        """Tell the messages of an event; False when nobody listens any more."""
        assert self._channel is not None
        if event.event != b"message" or not event.data:
            return True
        try:
            admitted = admit(event.data)
        except MessageError as error:
            return self._channel.deliver_when_room(m.GarbageReceived(error.text), math.inf)
        frames = admitted if isinstance(admitted, tuple) else (admitted,)
        return all(
            self._channel.deliver_when_room(m.FrameReceived(frame), math.inf) for frame in frames
        )

    def _not_offered(self, head: ResponseHead) -> FailedError:
        error = upstream_status.refusal(head, self._server.upstream)
        if isinstance(error, RefusedError):  # the client has asked for nothing of the kind
            return self._failed(f"the upstream answered with status {head.status}")
        return error

    # What is sent.

    def _send_all(self) -> None:
        """Send what is queued, in order."""
        try:
            while not self._ended:
                self._leave_posts_of_past_calls()
                if not self._queue:
                    self._await_more()
                    continue
                post = self._queue.popleft()
                if post.call_id is None:
                    self._post(post)
                else:
                    self._world.spawn("sse post", partial(self._post, post))
        finally:
            if not self._ended:
                self._tell_ended(self._failed("the proxy cannot send any more", Reason.INTERNAL))

    def _await_more(self) -> None:
        self._sender = self._world.waiter()
        try:
            self._sender.wait(self._world.now_s() + SWEEP_S if self._posting else math.inf)
        except DeadlineError:
            pass  # time to look at the POSTs

    def _post(self, post: _Post) -> None:
        """Send a message, and see that it is accepted, unless the session has ended meanwhile."""
        call_id = post.call_id
        failure: FailedError | None = FailedError(
            Reason.INTERNAL, "the proxy did not send the message to its end",
            executed=Executed.UNKNOWN, upstream=self._server.upstream, side=Side.PROXY,
        )
        try:
            self._send(post)
            failure = None
        except FailedError as error:
            failure = let_go(error)
        finally:
            self._unaccepted -= 1
            self._unaccepted_bytes -= len(post.data)
            if call_id is not None:
                self._posting.pop(call_id, None)
            if failure is not None and not self._ended:
                self._refused(call_id, failure)

    def _send(self, post: _Post) -> None:
        """Send a message.

        Raises:
            FailedError: it was not accepted, or nobody knows.
        """
        server, call_id = self._server, post.call_id
        head_of = server.fields.head_of_message
        parts = [head_of(post.forwarded, self._target, len(post.data)), post.data]
        deadline_s = self._world.now_s() + HEAD_S_MAX
        if call_id is None:
            exchange = self._begin(b"POST", parts, Purpose.RESERVED, deadline_s)
        else:
            deadline_s = math.inf  # some servers answer when the call is over
            exchange = self._begin(b"POST", parts, Purpose.CALL, deadline_s, post.asker)
            self._unsent.discard(call_id)
            self._posting[call_id] = exchange
        head = exchange.send(parts, deadline_s)
        if head.status not in _ACCEPTED:
            exchange.abandon()
            raise self._not_accepted(head)
        try:
            exchange.body(self._world.now_s() + HEAD_S_MAX)
        except FailedError:
            pass  # it has been accepted

    def _begin(
        self,
        method: bytes,
        parts: list[bytes],
        purpose: Purpose,
        deadline_s: float,
        asker: Exchange | None = None,
    ) -> HttpExchange:
        """Get a connection, unless the session has ended while it was waited for."""
        sender = self._server.sender
        outgoing = Outgoing(
            sender.next_own_id(), method, parts, purpose, deadline_s, asker=asker
        )
        try:
            exchange = sender.begin(outgoing)
        except MailboxFullError as error:
            raise self._failed("the proxy is overloaded", Reason.OVERLOADED) from error
        if self._ended:
            exchange.abandon()
            raise self._failed("the session has ended", Reason.SESSION_LOST)
        return exchange

    def _not_accepted(self, head: ResponseHead) -> FailedError:
        """Say what a status other than success means; 404 is that the session is not known."""
        upstream = self._server.upstream
        if head.status == 404:
            return upstream_status.session_lost(upstream)
        error = upstream_status.refusal(head, upstream)
        if isinstance(error, RefusedError):
            text = f"the upstream refused the message with status {head.status}"
            return FailedError(Reason.UPSTREAM_PROTOCOL, text, upstream=upstream, retryable=False)
        return error

    def _refused(self, call_id: int | None, error: FailedError) -> None:
        """Tell that a message was not accepted, and what ends with it."""
        if call_id is not None:
            self._tell(m.PostFailed(call_id, error.reason, error.text, error.executed))
        else:
            logger.warning(
                "message_not_accepted upstream=%s error=%s", self._server.upstream, error.text
            )
        if error.reason is Reason.SESSION_LOST:
            self._tell_ended(error)

    def _leave_posts_of_past_calls(self) -> None:
        """Close the POSTs whose calls were over at the last look already: nobody waits for them."""
        now_s = self._world.now_s()
        if now_s - self._looked_s < SWEEP_S:
            return
        self._looked_s = now_s
        over = {call_id for call_id in self._posting if not self._in_flight(call_id)}
        for call_id in over & self._over:
            self._posting[call_id].discard()
        self._over = over

    # Inside.

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.set()

    def _tell_ended(self, error: FailedError) -> None:
        self._tell(m.ChannelEnded(error.reason, error.text))

    def _tell(self, message: m.PostFailed | m.ChannelEnded) -> None:
        assert self._channel is not None
        self._channel.tell(message)

    def _failed(self, text: str, reason: Reason = Reason.UPSTREAM_PROTOCOL) -> FailedError:
        return FailedError(reason, text, upstream=self._server.upstream)

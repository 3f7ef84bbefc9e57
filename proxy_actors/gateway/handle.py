"""One client connection from its first byte to its last: read this module first.

A connection is served by one greenlet at a time. It reads a request, has it answered, writes the
answer, and goes on with the next, in order; while the answer is a stream that is silent there is
none. While it waits for an upstream, the connection is read ahead a little and watched for the
client's departure. Every wait has a deadline, every quantity a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from proxy_actors.actors.stream_directory import CALL
from proxy_actors.errors import (
    DeadlineError,
    GatewayError,
    HandshakeError,
    RefusedError,
    StreamClosedError,
)
from proxy_actors.gateway import rescue
from proxy_actors.gateway.access_log import log_access
from proxy_actors.gateway.answer import answer
from proxy_actors.gateway.event_writer import EventWriter
from proxy_actors.gateway.exchange import AcceptedHead, Client, Exchange, request_name
from proxy_actors.gateway.forwarder import CALL_S_MAX
from proxy_actors.gateway.lease import Keeper
from proxy_actors.gateway.limits import AddressTokens
from proxy_actors.gateway.metering import count_exchange
from proxy_actors.gateway.read_gate import is_request
from proxy_actors.gateway.relay import Reader, write_response
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.session_use import SessionHolder
from proxy_actors.gateway.stack import accept_head
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.protocol.http1_request import Request, RequestHead, RequestParser
from proxy_actors.protocol.http1_write import CONTINUE
from proxy_actors.world.base import ByteStream

READ_BYTES_MAX = 65_536
# No less than this is read ahead of any connection anyway.
UNCOUNTED_BYTES_MAX = 4096
# How long, in a drain, another request may be underway on a connection that looks idle: its client
# was not told of the drain where the answer had begun before.
LAST_S_MAX = 0.2

logger = logging.getLogger("proxy_actors.gateway")


class _Streamed(msgspec.Struct, frozen=True, eq=False):
    """A request whose answer is an event stream that is being written."""

    exchange_id: int
    head: RequestHead
    exchange: Exchange | None
    response: Response
    writer: EventWriter
    began_s: float
    listens: bool


class ClientConnection:
    """Serves one connection. `idle` is true while no request is being received or answered."""

    def __init__(self, stream: ByteStream, wiring: Wiring) -> None:
        self._stream = stream
        self._wiring = wiring
        self._parser = RequestParser(wiring.http)
        self._left = wiring.limits.requests_max
        self._early: RequestHead | None = None
        self._accepted: AcceptedHead | None = None
        self._held_bytes = 0
        now_s = wiring.world.now_s
        self._client = Client(
            stream.peer,
            Keeper(now_s),
            SessionHolder(wiring.registry, wiring.uses, now_s, stream.peer),
            AddressTokens(wiring.rates),
        )
        self._streamed: _Streamed | None = None
        self.idle = True

    @property
    def listens(self) -> bool:
        """Whether it carries a stream that belongs to no call, and ends when it is made to."""
        return self._streamed is not None and self._streamed.listens

    def serve(self, on_end: Callable[[], None]) -> None:
        """Serve requests until the client ends, breaks a rule or exceeds a bound; then `on_end`.

        This returns before, where an event stream is silent: it wakes the connection when that is
        over, which goes on in another greenlet.
        """
        self._on_end = on_end
        self._go_on()

    def _go_on(self) -> None:
        now_s, limits = self._wiring.world.now_s, self._wiring.limits
        goes_on: bool | None = False
        try:
            try:
                if self._streamed is None:
                    self._stream.handshake(now_s() + limits.handshake_s_max)
                    goes_on = self._serve_one()
                else:
                    goes_on = self._write_on(self._streamed)
                while goes_on:
                    goes_on = self._serve_one()
            except HandshakeError as error:
                logger.debug("handshake_failed peer=%s error=%s", self._stream.peer, error)
            if goes_on is not None:
                # What the client is still sending must not turn its last answer into a reset.
                self._stream.close_lingering(now_s() + limits.linger_s_max)
        except (StreamClosedError, DeadlineError):
            pass  # the client has gone, or takes nothing: there is nobody to tell
        finally:
            if goes_on is not None:
                self._end()

    def _end(self) -> None:
        self._hold(0)
        self._client.keeper.close()
        self._client.holder.close()
        self._stream.close()
        on_end = self._on_end
        del self._on_end  # it knows this connection, whose buffers would wait for the collector
        on_end()

    def close(self) -> None:
        """End the connection in whatever it is doing."""
        self._stream.close()

    def close_if_idle(self) -> None:
        """End the connection unless a request is underway; then it ends after its answer."""
        if self.idle:
            self._stream.close()

    def _serve_one(self) -> bool | None:
        """Serve a request; say whether there may be another, None where a silent stream is left."""
        try:
            request = self._next_request()
        except GatewayError as error:
            self._refuse(error)
            return False
        if request is None:
            return False
        self._left -= 1
        close = not request.head.keep_alive or self._left <= 0
        return self._answer(request, close)

    def _answer(self, request: Request, close: bool) -> bool | None:
        """Answer one complete request and write the answer; returns as `_serve_one`."""
        wiring = self._wiring
        exchange: Exchange | None = None
        response: Response | None = None
        reader: Reader | None = None
        written = False
        clock = wiring.world.now_s
        exchange_id, began_s = next(wiring.exchange_ids), clock()
        try:
            try:
                accepted = self._accepted
                if accepted is None or accepted.head is not request.head:
                    accepted = self._accept(request.head)
                route = accepted.route
                call_s_max = CALL_S_MAX if route is None else route.call_s_max
                exchange = Exchange(
                    exchange_id, request, accepted, self._client, began_s, began_s + call_s_max
                )
                response = answer(exchange, wiring)
                if isinstance(response.stream, Reader):
                    reader = response.stream
                elif response.stream is not None:
                    reader = Reader(response.stream, wiring, exchange.session)
            except Exception as error:  # whatever it is, the client gets an answer
                id = None if exchange is None else exchange.answer_id
                response = rescue.respond(error, id, request_name(exchange_id))
            close = close or response.close or wiring.draining
            if reader is None:
                goes_on = write_response(self._stream, response, request.head, wiring, close)
                written = True
                return goes_on
        finally:
            if reader is None:
                last = b"" if response is None else response.body
                self._answered(
                    exchange_id, request.head, exchange, response, last, written, began_s
                )
        writer = EventWriter(self._stream, reader, response, request.head, wiring, close)
        listens = request.head.method == b"GET" and not reader.stream_id.startswith(CALL)
        self._streamed = _Streamed(
            exchange_id, request.head, exchange, response, writer, began_s, listens
        )
        return self._write_on(self._streamed)

    def _write_on(self, streamed: _Streamed) -> bool | None:
        """Write an event stream as far as it has come; returns as `_serve_one`."""
        writer = streamed.writer
        goes_on: bool | None = False
        written = False
        try:
            goes_on = writer.go_on(self._wake)
            written = True
            return goes_on
        finally:
            if goes_on is not None:
                self._streamed = None
                writer.end()
                self._answered(
                    streamed.exchange_id, streamed.head, streamed.exchange, streamed.response,
                    writer.last, written, streamed.began_s,
                )

    def _wake(self) -> None:
        self._wiring.world.spawn_in_turn("connection", self._go_on)

    def _answered(
        self,
        exchange_id: int,
        head: RequestHead,
        exchange: Exchange | None,
        response: Response | None,
        last: bytes,
        written: bool,
        began_s: float,
    ) -> None:
        """Count what has been answered, or was to be, and let go of its session."""
        wiring = self._wiring
        self._client.holder.end()
        seconds = wiring.world.now_s() - began_s
        if response is not None and exchange is not None:
            count_exchange(exchange, response, last, written, seconds)
        if wiring.access_log:
            status = 0 if response is None else response.status
            log_access(exchange_id, head, exchange, status, seconds)

    def _accept(self, head: RequestHead) -> AcceptedHead:
        """Judge a head; the next request with the same one passes."""
        accepted = self._accepted = accept_head(head, self._client.peer, self._wiring)
        return accepted

    # Reading.

    def _next_request(self) -> Request | None:
        """Return the next request; None when the client has ended between two requests.

        Raises:
            RefusedError, FailedError: what has come cannot be served, and the connection neither.
        """
        parser, gate = self._parser, self._wiring.gate
        limits, clock = self._wiring.limits, self._wiring.world.now_s
        began_s: float | None = None
        while (request := parser.take()) is None:
            now_s = clock()
            if not (begun := parser.mid_message):
                if self._held_bytes:
                    self._hold(0)
                deadline_s = now_s + (LAST_S_MAX if self._wiring.draining else limits.idle_s_max)
            else:
                self._hold(parser.body_bytes_buffered)
                self._check_early(parser.head)
                began_s = now_s if began_s is None else began_s
                deadline_s = began_s + limits.head_s_max
                if parser.head is not None:
                    received_s = parser.body_bytes_buffered / limits.body_rate_min
                    deadline_s = began_s + limits.body_grace_s + received_s
            self.idle = not begun
            try:
                data = self._stream.read(READ_BYTES_MAX, deadline_s)
            except DeadlineError as error:
                if not begun:
                    return None
                raise RefusedError(408, "the request came too slowly", close=True) from error
            if data:
                if gate.closed and not begun and is_request(data):
                    self.idle = False
                    gate.wait()
                parser.feed(data)
            elif begun:
                raise RefusedError(400, "the request ended before its end", close=True)
            else:
                return None
        self.idle = False
        self._early = None
        if self._held_bytes or len(request.body) > UNCOUNTED_BYTES_MAX:
            self._hold(len(request.body))
        return request

    def _check_early(self, head: RequestHead | None) -> None:
        """Refuse by the head, or ask for the body, while the body is still to come."""
        if head is not None and head is not self._early:
            self._accept(head)
            if head.expects_continue:
                self._stream.write([CONTINUE], self._wiring.write_deadline_s(len(CONTINUE)))
        self._early = head

    def _hold(self, body_bytes: int) -> None:
        """Count the bytes of the body that this connection holds, unless they are few."""
        if body_bytes <= UNCOUNTED_BYTES_MAX:
            body_bytes = 0
        if body_bytes != self._held_bytes:
            self._wiring.bodies.change(body_bytes - self._held_bytes)
            self._held_bytes = body_bytes

    def _refuse(self, error: GatewayError) -> None:
        """Answer what could not be read to its end."""
        response = rescue.respond(error, None, request_name(next(self._wiring.exchange_ids)))
        write_response(self._stream, response, self._parser.head, self._wiring, True)

"""Carries exchanges to an HTTP upstream: one upstream session for each client session.

Ids of requests pass untouched, because one upstream session serves one client session and its id
space is unique. Owns the sources on their way from an exchange to a stream's actor. What it never
forwards: the client's credentials and cookies, its session id, hop-by-hop fields (HTTP-F1, THR-T9).
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.http_upstream import HttpTasks
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    Executed,
    FailedError,
    ProxyActorsError,
    Reason,
    RefusedError,
)
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import (
    HEAD_S_MAX,
    INITIALIZE_S_MAX,
    REPEATABLE,
    SILENT_S_MAX,
    Forwarder,
)
from proxy_actors.gateway.handshake import Handshake, negotiated_version
from proxy_actors.gateway.http_exchange import JSON_TYPE, HttpExchange
from proxy_actors.gateway.http_fields import Forwarded, UpstreamFields, session_id_of
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.gateway.lease import IDLE_S_MAX, Pool
from proxy_actors.gateway.response import JSON_FIELDS, Response, json_response
from proxy_actors.messages.http_upstream import (
    ClientAnswered,
    ClientCancelled,
    OpenCallStream,
    OpenStandaloneStream,
    ReleaseStandalone,
    ReserveStandalone,
)
from proxy_actors.messages.pool import Purpose
from proxy_actors.messages.sessions import EndReason, EndSession, Session
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.world.base import World

DECIDE_S_MAX = 1.0
_ACCEPTED = frozenset({200, 202, 204})
_CALL = Purpose.CALL


class HttpForwarder(Forwarder, HttpTasks):
    """Carries exchanges to one HTTP upstream.

    Args:
        slot: the upstream's actor.
        pool: its connections.
        fields: the fields of requests to it.
        handshake: creates sessions.
        silence_s_max: how long an event stream that can be opened anew may be silent.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        pool: Pool,
        fields: UpstreamFields,
        handshake: Handshake,
        registry: Slot,
        limits: HttpLimits = HttpLimits(),
        silence_s_max: float = ReconnectLimits().idle_s_max,
    ) -> None:
        self._world = world
        self._slot = slot
        self._pool = pool
        self.upstream = pool.upstream
        self._sender = HttpSender(world, pool, fields.target, limits)
        self._fields = fields
        self._handshake = handshake
        self._registry = registry
        self._silence_s_max = silence_s_max
        self._sources: dict[int, EventSource] = {}

    # For clients.

    def initialize(self, exchange: Exchange) -> Response:
        """Forward `initialize`; the answer becomes JSON whatever the upstream made of it."""
        message = exchange.message
        deadline_s = self._world.now_s() + INITIALIZE_S_MAX
        upstream, head = self._sender.send(
            Outgoing(
                exchange.id, b"POST", self._post(exchange, message.raw, None), _CALL,
                deadline_s, message.id, repeatable=True, meter=exchange.meter,
            )
        )
        answer = self._answer(upstream, head, deadline_s, None)
        if answer.is_error:
            return json_response(answer.raw, head.returned)
        session_id = session_id_of(head.fields)
        version = negotiated_version(answer, self._pool.upstream)
        created = False
        try:
            response = self._handshake.create(
                exchange, answer, version, session_id, returned=head.returned
            )
            created = True
            return response
        finally:
            if not created and session_id is not None:
                self._delete_later(session_id, version)

    def call(self, exchange: Exchange) -> Response:
        """Forward a request: JSON if nothing but the answer comes, else an event stream.

        One that is not answered in time is cancelled at the upstream (MCP-X-5).
        """
        message, session = exchange.message, exchange.in_session()
        deadline_s = exchange.deadline_s
        try:
            parts = self._post(exchange, message.raw, session)
            upstream, head = self._sender.send(
                Outgoing(
                    exchange.id, b"POST", parts, _CALL, deadline_s, message.id,
                    message.method in REPEATABLE, exchange.keeper, exchange.meter,
                )
            )
            if head.status == 200 and head.media_type == JSON_TYPE:
                raw = upstream.answer(deadline_s).raw
                if head.returned:
                    return json_response(raw, head.returned)
                return Response(200, JSON_FIELDS, raw)
            return self._unusual(exchange, session, upstream, head)
        except FailedError as error:
            if error.reason is Reason.UPSTREAM_TIMEOUT:
                self._cancel_later(session, message.id)
            raise

    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response, past all calls."""
        message, session = exchange.message, exchange.in_session()
        cancelled = message.cancelled_request_id()
        if cancelled is not None:
            self._slot.tell(ClientCancelled(session.key, cancelled))
        deadline_s = self._world.now_s() + HEAD_S_MAX
        parts = self._post(exchange, message.raw, session)
        upstream, head = self._sender.send(
            Outgoing(exchange.id, b"POST", parts, Purpose.RESERVED, deadline_s)
        )
        body = upstream.body(deadline_s)
        if head.status not in _ACCEPTED:
            raise self._refusal(head, session, self._admitted(upstream, body))
        if message.kind is jsonrpc.RESPONSE and message.id is not None:
            self._slot.tell(ClientAnswered(session.key, message.id))

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's GET stream at the upstream; a 405 is passed on (MCP-S-8, S-9)."""
        session = exchange.in_session()
        reserve = ReserveStandalone(session.key, exchange.id)
        name: str | None = None
        try:
            reserved = self._slot.ask(reserve, self._world.now_s() + DECIDE_S_MAX)
            if isinstance(reserved, str):  # it stands, and may be without a reader
                return Response(200, stream=reserved)
            upstream, head = self._open_stream(exchange.accepted.forwarded, session, exchange.id)
            ask = OpenStandaloneStream(exchange.id, session.key)
            name = self._ask_for_stream(exchange.id, self._source(exchange, upstream), ask)
            return Response(200, head.returned, stream=name)
        finally:
            if name is None:
                self._slot.tell(ReleaseStandalone(session.key, exchange.id))

    # For the upstream's actor.

    def probe(self) -> bool:
        """Check a connection out and back in."""
        now_s = self._world.now_s()
        try:
            lease = self._pool.checkout(
                self._sender.next_own_id(), Purpose.RESERVED, now_s, now_s + HEAD_S_MAX, IDLE_S_MAX
            )
        except ProxyActorsError:
            return False
        lease.release(True)
        return True

    def delete_session(self, upstream_session_id: str, version: str) -> None:
        """Send DELETE; an upstream that refuses it (405) or is gone has nothing to free."""
        fields = self._fields.own(upstream_session_id, version)
        self._sender.send_own(b"DELETE", fields)

    def take_source(self, exchange_id: int) -> EventSource | None:
        """Hand a source over to its stream's actor, if it is still to be had."""
        return self._sources.pop(exchange_id, None)

    # Inside.

    def _unusual(
        self, exchange: Exchange, session: Session, upstream: HttpExchange, head: ResponseHead
    ) -> Response:
        """Answer a call that was not answered with JSON."""
        deadline_s = exchange.deadline_s
        if head.status != 200 or not upstream.is_event_stream:
            answer = self._answer(upstream, head, deadline_s, session)
            return json_response(answer.raw, head.returned)
        upstream.became_stream()
        first = self._first_message(upstream, deadline_s)
        if first is not None and upstream.is_final(first):
            self._finish(upstream)
            return json_response(first.raw, head.returned)
        return Response(200, head.returned, stream=self._detach(exchange, session, upstream))

    def _first_message(
        self, upstream: HttpExchange, deadline_s: float
    ) -> jsonrpc.Message | None:
        """Wait for the first message of an event stream, for a while.

        Raises:
            FailedError: the stream broke, and the upstream named no place to go on from.
        """
        try:
            return upstream.first_message(min(self._world.now_s() + SILENT_S_MAX, deadline_s))
        except FailedError as error:
            if error.reason is not Reason.UPSTREAM_CLOSED or not upstream.last_event_id:
                raise
            return None

    def _post(self, exchange: Exchange, body: bytes, session: Session | None) -> list[bytes]:
        forwarded = exchange.accepted.forwarded
        return [self._fields.head_of_post(forwarded, session, len(body)), body]

    def _answer(
        self,
        upstream: HttpExchange,
        head: ResponseHead,
        deadline_s: float,
        session: Session | None,
    ) -> jsonrpc.Message:
        """Read the answer to a request, up to its final message, whatever form it has."""
        if head.status == 200 and upstream.is_event_stream:
            while True:
                message = upstream.next_message(deadline_s)
                if upstream.is_final(message):
                    self._finish(upstream)
                    return message
        if head.status == 200:
            return upstream.answer(deadline_s)
        body = upstream.body(deadline_s)
        return self._answer_of_refusal(upstream, head, self._admitted(upstream, body), session)

    def _answer_of_refusal(
        self,
        upstream: HttpExchange,
        head: ResponseHead,
        message: jsonrpc.Message | None,
        session: Session | None,
    ) -> jsonrpc.Message:
        """Return the error with which the application itself has answered the request."""
        error = self._refusal(head, session, message)
        if upstream.repeats:
            error.executed = Executed.UNKNOWN  # what is refused now may have been done before
        is_verdict = isinstance(error, RefusedError) or error.reason is Reason.UPSTREAM_PROTOCOL
        if message is not None and upstream.is_final(message) and is_verdict:
            return message
        raise error

    def _admitted(self, upstream: HttpExchange, body: bytes) -> jsonrpc.Message | None:
        """Return the one message of a refusal's body, if that is what it is."""
        try:
            messages = upstream.admit(body)
        except FailedError:
            return None
        return messages[0] if len(messages) == 1 else None

    def _detach(self, exchange: Exchange, session: Session, upstream: HttpExchange) -> str:
        """Hand the exchange over to a stream's actor; return the stream's name."""
        message = exchange.message
        assert message.id is not None
        source = self._source(
            exchange, upstream, lambda: self._cancel_later(session, message.id)
        )
        ask = OpenCallStream(exchange.id, session.key, message.id, exchange.deadline_s)
        return self._ask_for_stream(exchange.id, source, ask)

    def _source(
        self,
        exchange: Exchange,
        upstream: HttpExchange,
        on_cancel: Callable[[], None] | None = None,
    ) -> HttpSource:
        """Make the source of a stream; it keeps nothing of the client's request but its fields."""
        forwarded, session = exchange.accepted.forwarded, exchange.in_session()
        request_id = upstream.request_id

        def reopen(last_event_id: bytes) -> HttpExchange:
            exchange_id = self._sender.next_own_id()
            upstream, _ = self._open_stream(
                forwarded, session, exchange_id, request_id, last_event_id
            )
            return upstream

        return HttpSource(upstream, reopen, self._silence_s_max, on_cancel)

    def _open_stream(
        self,
        forwarded: Forwarded,
        session: Session,
        exchange_id: int,
        request_id: bytes | None = None,
        last_event_id: bytes = b"",
    ) -> tuple[HttpExchange, ResponseHead]:
        """GET an event stream: the session's standalone one, or what follows an event.

        Args:
            request_id: the raw JSON id of the request whose answer it carries, if it does.

        Raises:
            RefusedError, FailedError: the upstream did not open it.
        """
        deadline_s = self._world.now_s() + HEAD_S_MAX
        parts = [self._fields.head_of_get(forwarded, session, last_event_id)]
        upstream, head = self._sender.send(
            Outgoing(exchange_id, b"GET", parts, Purpose.STREAM, deadline_s, request_id)
        )
        if head.status != 200 or not upstream.is_event_stream:
            upstream.body(deadline_s)
            raise self._refusal(head, session, opens_stream=True)
        return upstream, head

    def _ask_for_stream(
        self,
        exchange_id: int,
        source: HttpSource,
        ask: OpenCallStream | OpenStandaloneStream,
    ) -> str:
        """Offer the source to the upstream's actor, and take it back if nobody took it."""
        self._sources[exchange_id] = source
        try:
            return str(self._slot.ask(ask, self._world.now_s() + DECIDE_S_MAX))
        finally:
            if self._sources.pop(exchange_id, None) is not None:
                source.close(cancel=False)

    def _finish(self, upstream: HttpExchange) -> None:
        """See to the end of an answered event stream without keeping the client waiting."""
        if upstream.complete:
            upstream.finish()
        else:
            self._world.spawn("answer tail", upstream.finish)

    def _delete_later(self, upstream_session_id: str, version: str) -> None:
        self._world.spawn(
            "session delete", lambda: self.delete_session(upstream_session_id, version)
        )

    def _cancel_later(self, session: Session, request_id: bytes | None) -> None:
        self._world.spawn("cancel", lambda: self._cancel(session, request_id))

    def _cancel(self, session: Session, request_id: bytes | None) -> None:
        assert request_id is not None
        body = jsonrpc_rewrite.cancelled(request_id, "deadline")
        fields = self._fields.own(session.upstream_session_id, session.version, len(body))
        self._sender.send_own(b"POST", fields, body)

    def _refusal(
        self,
        head: ResponseHead,
        session: Session | None,
        message: jsonrpc.Message | None = None,
        opens_stream: bool = False,
    ) -> FailedError | RefusedError:
        """Say what a status other than success means; a session that is lost ends here as well."""
        upstream = self._pool.upstream
        if session is not None and upstream_status.ends_session(head, session, message):
            self._registry.tell(EndSession(session.key, EndReason.LOST))
            return upstream_status.session_lost(upstream)
        return upstream_status.refusal(head, upstream, message, opens_stream)

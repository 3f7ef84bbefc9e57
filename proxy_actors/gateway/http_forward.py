"""Carries exchanges to an HTTP upstream: one upstream session for each client session.

Ids of requests pass untouched, because one upstream session serves one client session and its id
space is unique. Owns the sources on their way from an exchange to a stream's actor. What it never
forwards: the client's credentials and cookies, its session id, hop-by-hop fields (HTTP-F1, THR-T9).
"""

from __future__ import annotations

import itertools

from msgspec import Raw

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.http_upstream import HttpTasks
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import Executed, FailedError, ProxyActorsError, Reason, RefusedError
from proxy_actors.gateway import rescue
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import (
    HEAD_S_MAX,
    INITIALIZE_S_MAX,
    SILENT_S_MAX,
    Forwarder,
)
from proxy_actors.gateway.handshake import Handshake, negotiated_version
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_fields import UpstreamFields, session_id_of
from proxy_actors.gateway.lease import Keeper, Pool
from proxy_actors.gateway.response import Response, json_response
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
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.protocol.http1_write import request_head
from proxy_actors.world.base import World

# Methods without effects, by RELIABILITY: an idle connection may be used for them however old.
_REPEATABLE = frozenset(
    {
        "ping", "tools/list", "prompts/list", "prompts/get", "resources/list",
        "resources/templates/list", "resources/read", "completion/complete",
    }
)  # fmt: skip
_TAIL_S_MAX = 1.0
_ANSWERED = frozenset({200, 202, 204})


class HttpForwarder(Forwarder, HttpTasks):
    """Carries exchanges to one HTTP upstream.

    Args:
        slot: the upstream's actor.
        pool: its connections.
        fields: the fields of requests to it.
        handshake: creates sessions.
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
    ) -> None:
        self._world = world
        self._slot = slot
        self._pool = pool
        self._fields = fields
        self._handshake = handshake
        self._registry = registry
        self._limits = limits
        self._sources: dict[int, EventSource] = {}
        self._own_ids = itertools.count(1)

    # For clients.

    def initialize(self, exchange: Exchange) -> Response:
        """Forward `initialize`; the answer becomes JSON whatever the upstream made of it."""
        message = exchange.message
        deadline_s = self._world.now_s() + INITIALIZE_S_MAX
        upstream = self._exchange(exchange.id, b"POST", Purpose.CALL, deadline_s, message.id, True)
        head = upstream.send(self._post(exchange, message.raw, None), deadline_s)
        answer = self._answer(upstream, head, deadline_s)
        if answer.is_error:
            return json_response(answer.raw)
        session_id = session_id_of(head.fields)
        version = negotiated_version(answer, self._pool.upstream)
        try:
            return self._handshake.create(exchange, answer, version, "", session_id, True)
        except ProxyActorsError:
            if session_id is not None:
                self.delete_later(session_id, version)
            raise

    def call(self, exchange: Exchange) -> Response:
        """Forward a request: JSON if nothing but the answer comes, else an event stream."""
        message, session = exchange.message, exchange.in_session()
        repeatable = message.method in _REPEATABLE
        deadline_s = exchange.deadline_s
        upstream = self._exchange(
            exchange.id, b"POST", Purpose.CALL, deadline_s, message.id, repeatable,
            exchange.keeper,
        )
        head = upstream.send(self._post(exchange, message.raw, session), deadline_s)
        if head.status != 200 or not upstream.is_event_stream:
            return json_response(self._answer(upstream, head, deadline_s, session).raw)
        upstream.became_stream()
        silent_until_s = min(self._world.now_s() + SILENT_S_MAX, deadline_s)
        first = upstream.first_message(silent_until_s)
        if first is not None and upstream.is_final(first):
            self._finish(upstream)
            return json_response(first.raw)
        return self._detach(exchange, session, upstream)

    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response, past all calls."""
        message, session = exchange.message, exchange.in_session()
        cancelled = message.cancelled_request_id()
        if cancelled is not None:
            self._slot.tell(ClientCancelled(session.key, cancelled))
        deadline_s = self._world.now_s() + HEAD_S_MAX
        upstream = self._exchange(exchange.id, b"POST", Purpose.RESERVED, deadline_s, None, False)
        head = upstream.send(self._post(exchange, message.raw, session), deadline_s)
        body = upstream.body(deadline_s)
        if head.status not in _ANSWERED:
            raise self._refusal(head, body, session)
        if message.kind is jsonrpc.Kind.RESPONSE and message.id is not None:
            self._slot.tell(ClientAnswered(session.key, message.id))

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's GET stream at the upstream; a 405 is passed on (MCP-S-8, S-9)."""
        session = exchange.in_session()
        deadline_s = self._world.now_s() + HEAD_S_MAX
        self._slot.ask(ReserveStandalone(session.key), self._world.now_s() + 1.0)
        name: str | None = None
        try:
            upstream = self._exchange(exchange.id, b"GET", Purpose.STREAM, deadline_s, None, False)
            get = self._fields.head_of_get(exchange.forwarded, session)
            head = upstream.send([get], deadline_s)
            if head.status != 200 or not upstream.is_event_stream:
                raise self._refusal(head, upstream.body(deadline_s), session)
            ask = OpenStandaloneStream(exchange.id, session.key)
            name = self._ask_for_stream(exchange.id, upstream, ask)
            return Response(200, stream=name)
        finally:
            if name is None:
                self._slot.tell(ReleaseStandalone(session.key))

    # For the upstream's actor.

    def probe(self) -> bool:
        """Check a connection out and back in."""
        now_s = self._world.now_s()
        try:
            lease = self._pool.checkout(
                -next(self._own_ids), Purpose.RESERVED, now_s, now_s + HEAD_S_MAX, True
            )
        except ProxyActorsError:
            return False
        lease.release(True)
        return True

    def delete_session(self, upstream_session_id: str, version: str) -> None:
        """Send DELETE; an upstream that refuses it (405) or is gone has nothing to free."""
        deadline_s = self._world.now_s() + HEAD_S_MAX
        fields = self._fields.own(upstream_session_id, version)
        try:
            exchange_id = -next(self._own_ids)
            upstream = self._exchange(
                exchange_id, b"DELETE", Purpose.RESERVED, deadline_s, None, False
            )
            upstream.send([request_head(b"DELETE", self._fields.target, fields)], deadline_s)
            upstream.discard_body(deadline_s)
        except ProxyActorsError:
            return

    def take_source(self, exchange_id: int) -> EventSource:
        """Hand a source over to its stream's actor."""
        return self._sources.pop(exchange_id)

    def failure(self, request_id: bytes, error: FailedError) -> bytes:
        """Make the error that answers a call."""
        error.upstream = self._pool.upstream
        return rescue.message(error, request_id)

    def delete_later(self, upstream_session_id: str, version: str) -> None:
        """Send DELETE in a greenlet of its own."""
        self._world.spawn(
            "session delete", lambda: self.delete_session(upstream_session_id, version)
        )

    # Inside.

    def _exchange(
        self,
        exchange_id: int,
        method: bytes,
        purpose: Purpose,
        deadline_s: float,
        request_id: bytes | None,
        repeatable: bool,
        keeper: Keeper | None = None,
    ) -> HttpExchange:
        now_s = self._world.now_s()
        lease = self._pool.checkout(exchange_id, purpose, now_s, deadline_s, repeatable, keeper)
        return HttpExchange(lease, method, self._limits, self._pool.upstream, request_id)

    def _post(self, exchange: Exchange, body: bytes, session: Session | None) -> list[bytes]:
        return [self._fields.head_of_post(exchange.forwarded, session, len(body)), body]

    def _answer(
        self,
        upstream: HttpExchange,
        head: ResponseHead,
        deadline_s: float,
        session: Session | None = None,
    ) -> jsonrpc.Message:
        """Read the answer to a request, up to its final message, whatever form it has."""
        if head.status == 200 and upstream.is_event_stream:
            while True:
                message = upstream.next_message(deadline_s)
                if upstream.is_final(message):
                    self._finish(upstream)
                    return message
        body = upstream.body(deadline_s)
        if head.status == 404 and session is not None:
            raise self._refusal(head, body, session)
        message = self._only_message(upstream, body, head, session)
        if not upstream.is_final(message):
            text = "the upstream answered something else than was asked"
            raise self._failed(Reason.UPSTREAM_PROTOCOL, text)
        return message

    def _only_message(
        self, upstream: HttpExchange, body: bytes, head: ResponseHead, session: Session | None
    ) -> jsonrpc.Message:
        try:
            messages = upstream.admit(body)
        except FailedError:
            if head.status == 200:
                raise
            raise self._refusal(head, body, session) from None
        if len(messages) != 1 or (head.status != 200 and not upstream.is_final(messages[0])):
            raise self._refusal(head, body, session)
        return messages[0]

    def _detach(self, exchange: Exchange, session: Session, upstream: HttpExchange) -> Response:
        message = exchange.message
        assert message.id is not None
        request_id = message.id
        upstream.on_cancel = lambda: self._cancel_later(session, request_id)
        ask = OpenCallStream(exchange.id, session.key, request_id, exchange.deadline_s)
        return Response(200, stream=self._ask_for_stream(exchange.id, upstream, ask))

    def _ask_for_stream(
        self,
        exchange_id: int,
        upstream: HttpExchange,
        ask: OpenCallStream | OpenStandaloneStream,
    ) -> str:
        """Offer the source to the upstream's actor, and take it back if nobody took it."""
        self._sources[exchange_id] = upstream
        try:
            return str(self._slot.ask(ask, self._world.now_s() + 1.0))
        finally:
            if self._sources.pop(exchange_id, None) is not None:
                upstream.abandon()

    def _finish(self, upstream: HttpExchange) -> None:
        """See to the end of an answered event stream without keeping the client waiting."""
        deadline_s = self._world.now_s() + _TAIL_S_MAX
        if upstream.complete:
            upstream.finish(deadline_s)
        else:
            self._world.spawn("answer tail", lambda: upstream.finish(deadline_s))

    def _cancel_later(self, session: Session, request_id: bytes) -> None:
        self._world.spawn("cancel", lambda: self._cancel(session, request_id))

    def _cancel(self, session: Session, request_id: bytes) -> None:
        params = {"requestId": Raw(request_id), "reason": "deadline"}
        body = jsonrpc_rewrite.notification("notifications/cancelled", params)
        deadline_s = self._world.now_s() + HEAD_S_MAX
        fields = self._fields.own(session.upstream_session_id, session.version, len(body))
        try:
            exchange_id = -next(self._own_ids)
            upstream = self._exchange(
                exchange_id, b"POST", Purpose.RESERVED, deadline_s, None, False
            )
            upstream.send([request_head(b"POST", self._fields.target, fields), body], deadline_s)
            upstream.discard_body(deadline_s)
        except ProxyActorsError:
            return  # a lost cancellation is harmless

    def _refusal(
        self, head: ResponseHead, body: bytes, session: Session | None
    ) -> FailedError | RefusedError:
        """Say what a status other than success means to the client (PROTOCOL traps 2 and 3)."""
        if head.status == 404 and session is not None:
            self._registry.tell(EndSession(session.key, EndReason.LOST))
            return FailedError(
                Reason.SESSION_LOST, "the session has ended: initialize anew",
                upstream=self._pool.upstream, retryable=False,
            )
        if head.status == 405:
            return RefusedError(405, "the upstream does not offer this", headers=_ALLOW_POST)
        if head.status in (401, 403):
            return self._failed(
                Reason.UPSTREAM_PROTOCOL, "the upstream refused the proxy's credentials",
                Executed.NO,
            )
        if head.status in (429, 503):
            return self._failed(Reason.OVERLOADED, "the upstream is overloaded", Executed.NO)
        if 400 <= head.status < 500 and head.status != 404:
            return RefusedError(head.status, "the upstream refused the request")
        text = f"the upstream answered with status {head.status}"
        return self._failed(Reason.UPSTREAM_PROTOCOL, text)

    def _failed(
        self, reason: Reason, text: str, executed: Executed = Executed.UNKNOWN
    ) -> FailedError:
        return FailedError(reason, text, executed=executed, upstream=self._pool.upstream)


_ALLOW_POST = ((b"allow", b"POST, DELETE"),)

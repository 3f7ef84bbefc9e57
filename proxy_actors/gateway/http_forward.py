"""Carries exchanges to an HTTP upstream: one upstream session for each client session.

Ids of requests pass untouched, because one upstream session serves one client session and its id
space is unique; save for a request that is sent again while the try before may be running, and for
what cancels it. What it never forwards: the client's credentials and cookies, its session id,
hop-by-hop fields (HTTP-F1, THR-T9).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.http_upstream import HttpTasks
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    FailedError,
    MailboxFullError,
    ProxyActorsError,
    Reason,
    RefusedError,
    StreamsFullError,
)
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import (
    HEAD_S_MAX,
    INITIALIZE_S_MAX,
    REPEATABLE_ANEW,
    TOLD_S_MAX,
    Forwarder,
)
from proxy_actors.gateway.handshake import Handshake, negotiated_version
from proxy_actors.gateway.http_answers import HttpAnswers
from proxy_actors.gateway.http_exchange import JSON_TYPE, HttpExchange
from proxy_actors.gateway.http_fields import UpstreamFields, session_id_of
from proxy_actors.gateway.http_renewal import Renewer
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.gateway.http_source import read_alone
from proxy_actors.gateway.http_streams import DECIDE_S_MAX, HttpStreams, Sessions
from proxy_actors.gateway.lease import IDLE_S_MAX, Pool
from proxy_actors.gateway.own_requests import OwnRequests
from proxy_actors.gateway.response import JSON_FIELDS, Response, json_response
from proxy_actors.gateway.session_notes import NOTED, note
from proxy_actors.messages.http_upstream import (
    ClientAnswered,
    ClientCancelled,
    ReleaseStandalone,
    RenewalEnded,
    RenewSession,
    ReserveStandalone,
)
from proxy_actors.messages.pool import Purpose
from proxy_actors.messages.sessions import DescribeSession, EndReason, EndSession, Session
from proxy_actors.policy.calls_known import CallsKnown
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.retries import READS
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.world.base import World

_ACCEPTED = frozenset({200, 202, 204})
_CALL = Purpose.CALL


class HttpForwarder(Forwarder, HttpTasks, Sessions):
    """Carries exchanges to one HTTP upstream.

    Args:
        slot: the upstream's actor.
        pool: its connections.
        fields: the fields of requests to it.
        handshake: creates sessions.
        silence_s_max: how long an event stream that can be opened anew may be silent.
        renews: whether a session that the upstream has lost is opened anew, or ends.
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
        renews: bool = False,
    ) -> None:
        self._world = world
        self._slot = slot
        self._pool = pool
        self.upstream = pool.upstream
        self.sender = HttpSender(world, pool, fields.target, limits)
        self._fields = fields
        self._handshake = handshake
        self._registry = registry
        self._renews = renews
        self._on_stream_failed: Callable[[], None] = lambda: None
        self._sent_as: CallsKnown[bytes] = CallsKnown()
        self._answers = HttpAnswers(world, pool.upstream)
        self.own = OwnRequests(self.sender, fields, self._answers)
        self._renewer = Renewer(world, self.own, registry, handshake.endpoint)
        self.streams = HttpStreams(
            world, slot, self.sender, fields, self._answers, silence_s_max, self
        )

    # For clients.

    def initialize(self, exchange: Exchange) -> Response:
        """Forward `initialize`; the answer becomes JSON whatever the upstream made of it."""
        message = exchange.message
        deadline_s = self.opening_deadline_s(exchange)
        upstream, head = self.sender.send(
            Outgoing(
                exchange.id, b"POST", self._post(exchange, message.raw, None), _CALL,
                deadline_s, message.id, repeatable=True, meter=exchange.meter, asker=exchange,
            )
        )
        answer = self._answers.answer(upstream, head, deadline_s, None)
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

        One that is not answered in time is cancelled at the upstream (MCP-X-5). What does no harm
        is sent once more when the session was lost and has been opened anew.
        """
        session = exchange.in_session()
        try:
            response = self._call(exchange, session)
        except FailedError as error:
            if error.reason is not Reason.SESSION_LOST:
                raise
            renewed = self._another(exchange, session)
            if renewed is None:
                raise
            response = self._call(exchange, renewed)
        if self._renews and exchange.message.method in NOTED:
            body = response.body if response.stream is None else None
            note(self._registry, session.key, exchange.message, body)
        return response

    def _call(self, exchange: Exchange, session: Session) -> Response:
        if exchange.may_be_running or self._sent_as:
            return self._call_noted(exchange, session)
        return self._send(exchange, session, exchange.message.raw)

    def _call_noted(self, exchange: Exchange, session: Session) -> Response:
        """Send a call under an id of its own if need be, and note that for what cancels it."""
        message, known = exchange.message, self._sent_as
        assert message.id is not None
        if not exchange.may_be_running:
            known.leave(session.key, message.id)
            return self._send(exchange, session, message.raw)
        sent_as = b'"retry-%x-%d"' % (exchange.id, exchange.tries)
        known.enter(session.key, message.id, sent_as)
        goes_on = False
        try:
            raw = jsonrpc_rewrite.with_id(message, sent_as)
            response = self._send(exchange, session, raw, sent_as)
            goes_on = response.stream is not None
            return response
        finally:
            if not goes_on:
                known.leave(session.key, message.id)

    def _send(
        self, exchange: Exchange, session: Session, raw: bytes, sent_as: bytes | None = None
    ) -> Response:
        message, deadline_s = exchange.message, exchange.deadline_s
        try:
            parts = self._post(exchange, raw, session)
            upstream, head = self.sender.send(
                Outgoing(
                    exchange.id, b"POST", parts, _CALL, exchange.head_deadline_s, message.id,
                    message.method in READS, exchange.keeper, exchange.meter, exchange,
                    sent_as,
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
                self._cancel_later(session, sent_as or message.id)
            raise

    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response, past all calls."""
        message, session = exchange.message, exchange.in_session()
        cancelled, raw = message.cancelled_request_id(), message.raw
        if cancelled is not None:
            self._slot.tell(ClientCancelled(session.key, cancelled))
            sent_as = self._sent_as.find(session.key, cancelled)
            if sent_as is not None:
                raw = jsonrpc_rewrite.cancelled_with_request_id(message, sent_as)
        deadline_s = self._world.now_s() + HEAD_S_MAX
        parts = self._post(exchange, raw, session)
        upstream, head = self.sender.send(
            Outgoing(exchange.id, b"POST", parts, Purpose.RESERVED, deadline_s)
        )
        body = upstream.body(deadline_s)
        if head.status not in _ACCEPTED:
            found = self._answers.admitted(upstream, body)
            raise self._not_accepted(head, session, found, deadline_s)
        if message.kind is jsonrpc.RESPONSE and message.id is not None:
            self._slot.tell(ClientAnswered(session.key, message.id))

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's GET stream at the upstream; a 405 is passed on (MCP-S-8, S-9)."""
        session = exchange.in_session()
        reserve = ReserveStandalone(session.key, exchange.id, exchange.owner.name)
        name: str | None = None
        try:
            reserved = self._slot.ask(reserve, self._world.now_s() + DECIDE_S_MAX)
            if isinstance(reserved, str):  # it stands, and may be without a reader
                return Response(200, stream=reserved)
            try:
                name, head = self.streams.standalone(exchange, session)
            except FailedError as error:
                if error.reason is not Reason.SESSION_LOST:
                    raise
                renewed = self.renewed(session, exchange.deadline_s)
                if renewed is None:
                    raise
                name, head = self.streams.standalone(exchange, renewed)
            return Response(200, head.returned, stream=name)
        finally:
            if name is None:
                self._slot.tell(ReleaseStandalone(session.key, exchange.id))

    def watch_tools(self, changed: Callable[[], None]) -> None:
        """Hear of it on the event streams."""
        self.streams.on_tools_changed = changed

    def watch_streams(self, failed: Callable[[], None]) -> None:
        """Hear of it from the upstream's actor."""
        self._on_stream_failed = failed

    # For the upstream's actor.

    def stream_failed(self) -> None:
        """Tell whoever wants to know."""
        self._on_stream_failed()

    def probe(self) -> bool:
        """Check a connection out and back in."""
        now_s = self._world.now_s()
        try:
            lease = self._pool.checkout(
                self.sender.next_own_id(), Purpose.RESERVED, now_s, now_s + HEAD_S_MAX, IDLE_S_MAX
            )
        except ProxyActorsError:
            return False
        lease.release(True)
        return True

    def delete_session(self, upstream_session_id: str, version: str) -> None:
        """Send DELETE; an upstream that refuses it (405) or is gone has nothing to free."""
        fields = self._fields.own(upstream_session_id, version)
        self.sender.send_own(b"DELETE", fields)

    def renew(self, session: Session) -> RenewalEnded:
        """Open a lost session anew: what has lost it may be of another version."""
        if self.streams.on_tools_changed is not None:
            self.streams.on_tools_changed()
        return self._renewer.renew(session)

    def take_source(self, exchange_id: int) -> EventSource | None:
        """Hand a source over to its stream's actor, if it is still to be had."""
        return self.streams.take_source(exchange_id)

    # Sessions, as they are by now.

    def present(self, session: Session) -> Session:
        """Return a session as it is now; where none is opened anew, none changes."""
        if not self._renews:
            return session
        ask = DescribeSession(session.key)
        present: Session | None = self._registry.ask(ask, self._world.now_s() + DECIDE_S_MAX)
        if present is None:
            raise upstream_status.session_lost(self.upstream)
        return present

    def renewed(self, session: Session, deadline_s: float) -> Session | None:
        """Have a session opened anew that the upstream does not know (any more), or end it."""
        if not self._renews:
            self._registry.tell(EndSession(session.key, EndReason.LOST))
            return None
        return self.take_over(session, deadline_s)

    def take_over(self, session: Session, deadline_s: float) -> Session:
        """Open a session anew here, whichever endpoint it was at."""
        until_s = min(deadline_s, self._world.now_s() + INITIALIZE_S_MAX)
        try:
            renewed: Session = self._slot.ask(RenewSession(session), until_s)
        except (DeadlineError, ActorStoppedError, MailboxFullError) as error:
            raise upstream_status.not_renewed(self.upstream) from error
        return renewed

    # Inside.

    def _unusual(
        self, exchange: Exchange, session: Session, upstream: HttpExchange, head: ResponseHead
    ) -> Response:
        """Answer a call that was not answered with JSON."""
        answers, deadline_s = self._answers, exchange.deadline_s
        if head.status != 200 or not upstream.is_event_stream:
            answer = answers.answer(upstream, head, deadline_s, session)
            return json_response(answer.raw, head.returned)
        upstream.became_stream()
        first = answers.first_message(upstream, deadline_s)
        if first is not None and upstream.is_final(first):
            answers.finish(upstream)
            return json_response(first.raw, head.returned)
        request_id = upstream.sent_as or exchange.message.id
        try:
            name = self.streams.of_call(
                exchange, session, upstream, lambda: self._cancel_later(session, request_id)
            )
            return Response(200, head.returned, stream=name)
        except StreamsFullError:
            answer = read_alone(
                upstream, deadline_s, partial(self._post_later, session),
                self.streams.on_tools_changed,
            )
            answers.finish(upstream)
            return json_response(answer.raw, head.returned)

    def _post(self, exchange: Exchange, body: bytes, session: Session | None) -> list[bytes]:
        forwarded = exchange.accepted.forwarded
        return [self._fields.head_of_post(forwarded, session, len(body)), body]

    def _not_accepted(
        self, head: ResponseHead, session: Session, found: jsonrpc.Message | None, deadline_s: float
    ) -> FailedError | RefusedError:
        """Say why a message was not accepted; a lost session is opened anew, or has ended."""
        error = self._answers.refusal(head, session, found)
        if isinstance(error, FailedError) and error.reason is Reason.SESSION_LOST:
            if self.renewed(session, deadline_s) is not None:
                return upstream_status.session_renewed(self.upstream)
        return error

    def _another(self, exchange: Exchange, session: Session) -> Session | None:
        """Return the session in which a call can be repeated; None where it has ended.

        Raises:
            FailedError: the call is not to be repeated.
        """
        renewed = self.renewed(session, exchange.deadline_s)
        if renewed is None:
            return None
        elsewhere = renewed.endpoint != session.endpoint
        if elsewhere or exchange.message.method not in REPEATABLE_ANEW:
            raise upstream_status.session_renewed(self.upstream)
        return renewed

    def _delete_later(self, upstream_session_id: str, version: str) -> None:
        self._world.spawn(
            "session delete", lambda: self.delete_session(upstream_session_id, version)
        )

    def _cancel_later(self, session: Session, request_id: bytes | None) -> None:
        assert request_id is not None
        self._post_later(session, jsonrpc_rewrite.cancelled(request_id, "deadline"))

    def _post_later(self, session: Session, body: bytes) -> None:
        fields = self._fields.own(session.upstream_session_id, session.version, len(body))
        self._world.spawn(
            "own message", lambda: self.sender.send_own(b"POST", fields, body, TOLD_S_MAX)
        )

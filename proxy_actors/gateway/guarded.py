"""Carries exchanges to an upstream: chooses an endpoint, and tells the guard what came of it.

A session has a home, the endpoint that opened it, and stays there while that can be used. When it
cannot, the session has ended, or is opened anew at another endpoint where the operator allows that:
never is a server that keeps something for a session changed in silence. Where there is only one
endpoint, nothing is chosen; where its calls succeed, nobody is told.

Breakers and the bound on what is in flight say whether a request is sent at all. They are for new
requests alone: what a client answers, notes or cancels always passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    GatewayError,
    MailboxFullError,
    Reason,
    RefusedError,
    Side,
    let_go,
)
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.keys import ANONYMOUS
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.retrying import Retrier
from proxy_actors.messages.breaker import AdmitCall, CallAdmitted, CircuitOpen, PermitReleased
from proxy_actors.messages.guard import CallFailed, CallSucceeded, Fault
from proxy_actors.messages.sessions import EndReason, EndSession, Session, SessionEnded
from proxy_actors.options import Affinity
from proxy_actors.policy.balancer import Balancer
from proxy_actors.policy.calls_known import CallsKnown
from proxy_actors.policy.endpoint_state import EndpointState, actor_of
from proxy_actors.protocol.headers import first
from proxy_actors.world.base import World

T = TypeVar("T")

_FAULTS = {
    Reason.CONNECT_FAILED: Fault.CONNECT,
    Reason.UPSTREAM_CLOSED: Fault.RESET,
    Reason.UPSTREAM_TIMEOUT: Fault.TIMEOUT,
    Reason.UPSTREAM_PROTOCOL: Fault.PROTOCOL,
}
# What a server says that has no such method, or that speaks another version: it works.
_NOT_A_FAULT = frozenset({501, 505})
_OF_GATEWAYS = frozenset({502, 503, 504})
DECIDE_S_MAX = 1.0
HashKey = Callable[[Exchange], str]
"""Says what of a request the choice of an endpoint by hash goes by."""


class UpstreamEndpoint:
    """One server of an upstream: the way to it, and what is known of it.

    Args:
        slot: its actor.
        key: what tells its server from any other; resumable sessions have it as their endpoint.
    """

    __slots__ = ("forwarder", "key", "slot", "state")

    def __init__(self, state: EndpointState, forwarder: Forwarder, slot: Slot, key: str) -> None:
        self.state = state
        self.forwarder = forwarder
        self.slot = slot
        self.key = key


class GuardedForwarder(Forwarder):
    """Carries exchanges to one upstream.

    Args:
        endpoints: at least one.
        guard: hears of calls that fail.
        balancer: chooses among several endpoints.
        hash_key: what it goes by where it chooses by hash.
        retrier: sends again what has failed.
        affinity: whether sessions that mean nothing to their server stay at one endpoint too.
        renews: whether a session whose endpoint cannot be used is opened anew at another.
    """

    def __init__(
        self,
        world: World,
        upstream: str,
        endpoints: Sequence[UpstreamEndpoint],
        guard: Slot,
        registry: Slot,
        balancer: Balancer,
        hash_key: HashKey,
        retrier: Retrier,
        affinity: Affinity = Affinity.SESSION,
        renews: bool = False,
    ) -> None:
        self.upstream = upstream
        self._world = world
        self._guard = guard
        self._registry = registry
        self._balancer = balancer
        self._hash_key = hash_key
        self._retrier = retrier
        self._renews = renews
        self._only = endpoints[0] if len(endpoints) == 1 else None
        self._anywhere = self._only is None and affinity is Affinity.NONE
        # Where those calls are that may be at any endpoint.
        self._places: CallsKnown[UpstreamEndpoint] = CallsKnown()
        self._by_name = {endpoint.state.name: endpoint for endpoint in endpoints}
        self._by_key = {endpoint.key: endpoint for endpoint in endpoints}
        self._by_slot = {endpoint.slot.name: endpoint for endpoint in endpoints}
        for endpoint in endpoints:
            endpoint.forwarder.watch_streams(partial(self._stream_failed, endpoint.state))

    def initialize(self, exchange: Exchange) -> Response:
        """Open a session at an endpoint that takes some."""
        tried: list[str] = []

        def send() -> Response:
            only = self._only
            if only is not None and only.state.drained:
                raise self._unavailable()
            endpoint = only or self._choose(exchange, tried)
            tried.append(endpoint.state.name)
            exchange.deadline_s = endpoint.forwarder.opening_deadline_s(exchange)
            return self._carry(endpoint, exchange, endpoint.forwarder.initialize)

        if self._retrier.bounds_tries:
            self._retrier.begin(exchange)
        try:
            return send()
        except FailedError as error:
            failed = let_go(error)
        return self._retrier.again(failed, exchange, send, elsewhere=self._only is None)

    def call(self, exchange: Exchange) -> Response:
        """Forward a request to the home of its session, or to any endpoint if that has none."""
        if not self._anywhere:
            return self._call(exchange)
        goes_on = False
        try:
            response = self._call(exchange)
            goes_on = response.stream is not None
            return response
        finally:
            request_id = exchange.message.id
            if not goes_on and request_id is not None:
                self._places.leave(exchange.in_session().key, request_id)

    def _call(self, exchange: Exchange) -> Response:
        retrier = self._retrier
        if retrier.bounds_tries:
            retrier.begin(exchange)
        endpoint, hints = self._only or self._home(exchange), retrier.hints
        changes = 0 if hints is None else hints.changes
        try:
            response = self._carry(endpoint, exchange, endpoint.forwarder.call)
        except FailedError as error:
            failed = let_go(error)
        else:
            if hints is not None:
                retrier.learn(exchange.message, response, changes)
            return response
        return self._call_again(failed, exchange, endpoint)

    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response to where its session is, whatever its state.

        What cancels a call goes to where that is.
        """
        session = exchange.in_session()
        cancelled = exchange.message.cancelled_request_id()
        if cancelled is not None:
            self._retrier.cancelled(session.key, cancelled)
        endpoint = self._only or self._places.find(session.key, cancelled) or self._find(session)
        endpoint.forwarder.post(exchange)

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the standalone stream at the home of its session."""
        endpoint = self._only or self._home(exchange)
        return endpoint.forwarder.open_standalone(exchange)

    def _call_again(
        self, failed: FailedError, exchange: Exchange, endpoint: UpstreamEndpoint
    ) -> Response:
        """Send a request again, at another endpoint if it is bound to none."""
        tried = [endpoint.state.name]

        def send() -> Response:
            endpoint = self._only or self._home(exchange, tried)
            tried.append(endpoint.state.name)
            return self._carry(endpoint, exchange, endpoint.forwarder.call)

        return self._retrier.again(failed, exchange, send, elsewhere=self._is_free(exchange))

    # Where to.

    def _choose(self, exchange: Exchange, tried: Collection[str] = ()) -> UpstreamEndpoint:
        """Choose an endpoint for what is bound to none."""
        key = self._hash_key(exchange)
        state = self._balancer.choose(key, self._world.now_s(), tried)
        if state is None:
            raise self._unavailable()
        return self._by_name[state.name]

    def _home(self, exchange: Exchange, tried: Collection[str] = ()) -> UpstreamEndpoint:
        """Return the endpoint at which the session of a request is, once this has returned."""
        if self._is_free(exchange):
            endpoint = self._choose(exchange, tried)
            if exchange.messages and exchange.message.id is not None:
                key = exchange.in_session().key
                self._places.enter(key, exchange.message.id, endpoint)
            return endpoint
        session = exchange.in_session()
        home = self._find(session)
        if home.state.serves:
            return home
        return self._move(exchange, session, home)

    def _is_free(self, exchange: Exchange) -> bool:
        """Whether a request may go to any of several endpoints."""
        if not self._anywhere:
            return False
        session = exchange.in_session()
        if session.upstream_session_id is not None:
            return False
        return actor_of(session.endpoint) not in self._by_slot  # else it is bound to a channel

    def _find(self, session: Session) -> UpstreamEndpoint:
        """Find the endpoint at which a session is."""
        endpoint = self._by_key.get(session.endpoint)
        if endpoint is None:  # it has a channel of its own there, which is named after the actor
            endpoint = self._by_slot.get(actor_of(session.endpoint))
        if endpoint is None:
            raise self._end(session)
        return endpoint

    def _move(
        self, exchange: Exchange, session: Session, home: UpstreamEndpoint
    ) -> UpstreamEndpoint:
        """Have a session whose home cannot be used end, or be opened anew elsewhere."""
        state = self._balancer.choose(self._hash_key(exchange), self._world.now_s())
        if state is None:
            raise self._unavailable()  # and it stays, for whom it may be there again
        if not self._renews:
            raise self._end(session)
        endpoint = self._by_name[state.name]
        exchange.session = endpoint.forwarder.take_over(session, exchange.deadline_s)
        home.slot.tell(SessionEnded(session, EndReason.LOST))
        return self._find(exchange.session)

    def _end(self, session: Session) -> FailedError:
        self._registry.tell(EndSession(session.key, EndReason.LOST))
        return upstream_status.session_lost(self.upstream)

    def _unavailable(self) -> FailedError:
        text = "no server of the upstream can be used at the moment"
        return FailedError(
            Reason.UPSTREAM_UNAVAILABLE, text, upstream=self.upstream, retry_after_s=1.0
        )

    # Whether, and what came of it.

    def _carry(
        self, endpoint: UpstreamEndpoint, exchange: Exchange, forward: Callable[[Exchange], T]
    ) -> T:
        """Forward a request, if it may be now, and count it at its endpoint."""
        state = endpoint.state
        if not state.serves:  # the only one there is
            raise self._unavailable()
        if state.pending >= state.requests_max:
            text = "too many requests are in flight at the upstream"
            raise FailedError(Reason.OVERLOADED, text, upstream=self.upstream, side=Side.PROXY)
        permit, probes = state.epoch, False
        if state.gated:
            permit, probes = self._admit(state, exchange)
        told = False
        state.pending += 1
        try:
            result = forward(exchange)
            told = True
        except GatewayError as error:
            fault = fault_of(error)
            if fault is not None:
                self._failed(state, exchange, fault, permit)
                told = True
            elif _is_answer(error):  # it works, and has refused this one
                self._succeeded(state, exchange, permit, probes)
                told = True
            raise
        finally:
            state.pending -= 1
            if probes and not told:  # its client has left, or we could not send it
                tool = exchange.message.tool() or ""
                self._guard.deliver(PermitReleased(state.name, tool, permit))
        if probes or state.watched or state.latency is not None:
            self._succeeded(state, exchange, permit, probes)
        else:
            state.succeeded += 1
        return result

    def _admit(self, state: EndpointState, exchange: Exchange) -> tuple[int, bool]:
        """Ask for the permit of a request where some must not be sent, and if it is a probe's."""
        message = exchange.message
        ask = AdmitCall(state.name, message.tool() or "", self._retrier.reads(message))
        try:
            answer: CallAdmitted | CircuitOpen = self._guard.ask(
                ask, self._world.now_s() + DECIDE_S_MAX
            )
        except (ActorStoppedError, DeadlineError, MailboxFullError):
            return state.epoch, False  # nobody is there to say no
        if isinstance(answer, CallAdmitted):
            return answer.permit, answer.probe
        what = "this tool of the upstream" if answer.tool else "the upstream"
        raise FailedError(
            Reason.CIRCUIT_OPEN, f"{what} has failed too often, and is left alone for a while",
            upstream=self.upstream, side=Side.PROXY, retry_after_s=answer.after_s,
        )

    def _failed(
        self, state: EndpointState, exchange: Exchange, fault: Fault, permit: int
    ) -> None:
        now_s = self._world.now_s()
        if state.latency is not None:
            state.latency.fail(now_s)
        tool, seconds = exchange.message.tool() or "", now_s - exchange.sent_s
        self._guard.deliver(CallFailed(state.name, tool, fault, seconds, permit))

    def _stream_failed(self, state: EndpointState) -> None:
        """A stream was given up. Told by an actor in its turn, so nobody may take one for it."""
        self._guard.tell(CallFailed(state.name, "", Fault.RESET, 0.0, state.epoch))

    def _succeeded(
        self, state: EndpointState, exchange: Exchange, permit: int, probes: bool
    ) -> None:
        state.succeeded += 1
        now_s = self._world.now_s()
        seconds = now_s - exchange.sent_s
        if state.latency is not None:
            state.latency.observe(seconds, now_s)
        if state.watched or probes:
            tool = exchange.message.tool() or ""
            self._guard.deliver(CallSucceeded(state.name, tool, seconds, permit))


def hash_key_of(hash_on: str) -> HashKey:
    """Make what says the key of a request, by the setting `hash-on`.

    Where a request has nothing of the kind, its client's address stands for it.
    """
    kind, _, name = hash_on.partition(":")
    field = name.lower().encode("ascii")

    def key(exchange: Exchange) -> str:
        found: str | bytes | None = None
        if kind == "header":
            found = first(exchange.accepted.head.fields, field)
        elif kind == "session" and exchange.session is not None:
            found = exchange.session.key
        elif kind == "principal" and exchange.principal != ANONYMOUS:
            found = exchange.principal
        found = found or exchange.client.peer
        return found.decode("latin-1") if isinstance(found, bytes) else found

    return key


def _is_answer(error: GatewayError) -> bool:
    """Whether an error is what the server has said, in good health."""
    return isinstance(error, RefusedError) or (
        isinstance(error, FailedError) and error.answered is not None
    )


def fault_of(error: GatewayError) -> Fault | None:
    """Say what its endpoint did wrong, by the error; None where it is not the endpoint's fault.

    A refusal by 4xx is about the request, or about the proxy's credentials.
    """
    if not isinstance(error, FailedError) or error.side is not Side.UPSTREAM:
        return None
    status = error.answered
    if status in _OF_GATEWAYS:
        return Fault.GATEWAY
    if status is not None:
        return Fault.STATUS if status >= 500 and status not in _NOT_A_FAULT else None
    if error.reason is Reason.PROCESS_EXITED:  # that a session's own has gone before is no news
        return Fault.EXIT if error.executed is Executed.UNKNOWN else None
    return _FAULTS.get(error.reason)

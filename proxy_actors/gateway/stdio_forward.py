"""Carries exchanges to a stdio upstream: to a session's own child, or to the shared ones.

In SESSION mode a child is taken for each `initialize` and bound to the session that it opens; what
the session sends goes to that child's actor. In SHARED mode calls go to the one child, found under
a stable name, in POOL mode to a child taken for the call; what concerns a session rather than a
call goes to the upstream's actor; `initialize` is answered from the proxy's own handshake.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.stdio_shared import shared_name
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    Reason,
)
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import INITIALIZE_S_MAX, Forwarder
from proxy_actors.gateway.handshake import Handshake, agreed_version, negotiated_version
from proxy_actors.gateway.response import Response, json_response
from proxy_actors.messages.sessions import (
    EndReason,
    EndSession,
    Session,
    SetLogLevel,
    SetSubscription,
)
from proxy_actors.messages.stdio import (
    AbandonCall,
    BindChild,
    CallAnswered,
    CallStreaming,
    DescribeServer,
    OpenStandalone,
    ReleaseChild,
    SendMessage,
    ServerDescribed,
    SessionSeen,
    SubmitCall,
    TakeChild,
)
from proxy_actors.options import StdioMode
from proxy_actors.policy.stdio_asks import SET_LEVEL, SUBSCRIBE
from proxy_actors.policy.stdio_sessions import HANDLED_HERE
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.world.base import World

DECIDE_S_MAX = 1.0
SEEN_MAX = 100_000
# The child's actor ends every call at its deadline by itself; this is for the case that it cannot.
_GRACE_S = 1.0


class StdioForwarder(Forwarder):
    """Carries exchanges to one stdio upstream.

    Args:
        slot: the upstream's actor.
        processes: the children by name, for SESSION mode.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        processes: Directory,
        mode: StdioMode,
        handshake: Handshake,
        registry: Slot,
    ) -> None:
        self._world = world
        self._slot = slot
        self._processes = processes
        self._mode = mode
        self._handshake = handshake
        self._registry = registry
        self.upstream = slot.name.rpartition("/")[2]
        self._shared = shared_name(slot)
        self._seen: set[str] = set()
        self._seen_by = 0

    def initialize(self, exchange: Exchange) -> Response:
        """Open a session: at a child of its own, or at the shared ones."""
        deadline_s = self._world.now_s() + INITIALIZE_S_MAX
        if self._mode is StdioMode.SESSION:
            return self._initialize_own(exchange, deadline_s)
        described: ServerDescribed = self._slot.ask(DescribeServer(), deadline_s)
        assert exchange.message.id is not None
        version = agreed_version(exchange.message, described.version)
        members = msgspec.json.decode(described.result, type=dict[str, Raw])
        result = {**members, "protocolVersion": version}
        answer = jsonrpc.admit(jsonrpc_rewrite.result(exchange.message.id, result))
        assert isinstance(answer, Message)
        return self._handshake.create(exchange, answer, version)

    def call(self, exchange: Exchange) -> Response:
        """Submit the request; JSON if nothing but its answer comes, else an event stream."""
        session = exchange.in_session()
        if self._mode is not StdioMode.SESSION:
            self._make_known(session)
            if exchange.message.method in HANDLED_HERE:
                return self._call_upstream(exchange, session)
            if self._mode is StdioMode.POOL:
                return self._call_in_pool(exchange, session)
        return self._submit(self._target(session), exchange, session.key, exchange.deadline_s)

    def post(self, exchange: Exchange) -> None:
        """Send a notification or a response, in order behind what was sent before."""
        session = exchange.in_session()
        if self._mode is not StdioMode.SESSION:
            self._make_known(session)
        target = self._slot if self._mode is StdioMode.POOL else self._target(session)
        if not target.tell(SendMessage(session.key, exchange.message)):
            raise self._gone()

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's standalone stream, which the proxy itself makes."""
        session = exchange.in_session()
        deadline_s = self._world.now_s() + DECIDE_S_MAX
        if self._mode is StdioMode.SESSION:
            target = self._target(session)
        else:
            self._make_known(session)
            target = self._slot
        name: CallStreaming = target.ask(OpenStandalone(session.key), deadline_s)
        return Response(200, stream=name.stream)

    def _initialize_own(self, exchange: Exchange, deadline_s: float) -> Response:
        """Shake hands with a fresh child, and release it unless that opens a session."""
        bound = False
        try:
            child = self._take_child(exchange, deadline_s)
            response = self._submit(self._processes.find(child), exchange, "", deadline_s)
            if response.stream is not None:
                text = "the upstream's answer to initialize was no single message"
                raise FailedError(
                    Reason.UPSTREAM_PROTOCOL, text, executed=Executed.UNKNOWN,
                    upstream=self.upstream,
                )
            answer = jsonrpc.admit(response.body)
            assert isinstance(answer, Message)
            if answer.is_error:
                return response
            version = negotiated_version(answer, self.upstream)
            response = self._handshake.create(exchange, answer, version, child=child)
            bound = self._slot.tell(BindChild(child, exchange.in_session().key))
            return response
        finally:
            if not bound:
                self._slot.tell(ReleaseChild(exchange.id))

    def _take_child(self, exchange: Exchange, deadline_s: float) -> str:
        began_s = self._world.now_s()
        child: str = self._slot.ask(TakeChild(exchange.id, deadline_s), deadline_s)
        exchange.meter.queue.add(self._world.now_s() - began_s)
        return child

    def _call_in_pool(self, exchange: Exchange, session: Session) -> Response:
        deadline_s = exchange.deadline_s
        answered = False
        try:
            child = self._take_child(exchange, deadline_s)
            target = self._processes.find(child)
            response = self._submit(target, exchange, session.key, deadline_s)
            answered = True
            return response
        finally:
            if not answered:
                self._slot.tell(ReleaseChild(exchange.id))

    def _call_upstream(self, exchange: Exchange, session: Session) -> Response:
        """Set the level or a subscription, and have the registry keep it if that went well."""
        response = self._submit(self._slot, exchange, session.key, exchange.deadline_s)
        answer = jsonrpc.admit(response.body)
        assert isinstance(answer, Message)
        if not answer.is_error and exchange.message.method == SET_LEVEL:
            level = msgspec.json.decode(exchange.message.params["level"], type=str)
            self._registry.tell(SetLogLevel(session.key, level))
        elif not answer.is_error:
            subscribed = exchange.message.method == SUBSCRIBE
            uri = exchange.message.uri() or ""
            self._registry.tell(SetSubscription(session.key, uri, subscribed))
        return response

    def _make_known(self, session: Session) -> None:
        """Have the upstream know of a session before anything of it can be in flight.

        An upstream that was started anew knows of none.
        """
        if self._seen_by != self._slot.starts or len(self._seen) >= SEEN_MAX:
            self._seen.clear()
            self._seen_by = self._slot.starts
        if session.key not in self._seen and self._slot.tell(SessionSeen(session)):
            self._seen.add(session.key)

    def _submit(
        self, target: Slot, exchange: Exchange, session_key: str, deadline_s: float
    ) -> Response:
        ask = SubmitCall(exchange.id, session_key, exchange.message, deadline_s)
        # A name that nobody bears at the moment takes nothing; an actor that ends might have.
        running = target.ref is not None
        answered = False
        began_s = self._world.now_s()
        try:
            answer: CallAnswered | CallStreaming = target.ask(ask, deadline_s + _GRACE_S)
            answered = True
        except DeadlineError as error:
            text = "the upstream did not answer in time"
            raise FailedError(
                Reason.UPSTREAM_TIMEOUT, text, executed=Executed.UNKNOWN, upstream=self.upstream
            ) from error
        except ActorStoppedError as error:
            raise self._gone(Executed.UNKNOWN if running else Executed.NO) from error
        finally:
            if not answered:
                target.tell(AbandonCall(exchange.id))
        exchange.meter.first_byte.add(self._world.now_s() - began_s)
        if isinstance(answer, CallStreaming):
            return Response(200, stream=answer.stream)
        return json_response(answer.data)

    def _target(self, session: Session) -> Slot:
        if self._mode is StdioMode.SHARED:
            return self._processes.find(self._shared)
        try:
            return self._processes.find(session.endpoint)
        except ActorStoppedError as error:
            # The child ended with its upstream's actor, which knows of no session any more.
            self._registry.tell(EndSession(session.key, EndReason.LOST))
            raise self._gone() from error

    def _gone(self, executed: Executed = Executed.NO) -> FailedError:
        reason, text = Reason.PROCESS_EXITED, "the server process has ended"
        if self._mode is not StdioMode.SESSION and executed is Executed.NO:
            # It is being started anew: what took nothing can be repeated in a moment (FLT-U3).
            reason, text = Reason.UPSTREAM_UNAVAILABLE, "no server process is running"
        return FailedError(reason, text, executed=executed, upstream=self.upstream)

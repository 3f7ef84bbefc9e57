"""Carries exchanges to a stdio upstream whose processes are shared by all sessions.

In SHARED mode calls go to the one child, found under a stable name, in POOL mode to a child taken
for the call; what concerns a session rather than a call goes to the upstream's actor; `initialize`
is answered from the proxy's own handshake.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.stdio_shared import shared_name
from proxy_actors.actors.upstream_use import UpstreamUse
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    MailboxFullError,
    Reason,
)
from proxy_actors.gateway.channel_forward import ChannelForwarder
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.handshake import Handshake, agreed_version
from proxy_actors.gateway.session_notes import note
from proxy_actors.gateway.response import Response
from proxy_actors.messages.sessions import Session
from proxy_actors.messages.stdio import (
    DescribeServer,
    ReleaseChild,
    SendMessage,
    ServerDescribed,
    SessionSeen,
)
from proxy_actors.policy.stdio_sessions import HANDLED_HERE
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.world.base import World


class SharedForwarder(ChannelForwarder):
    """Carries exchanges to one stdio upstream in SHARED or POOL mode.

    Args:
        slot: the upstream's actor.
        processes: the children by name.
        pool: whether a child runs one call at a time.
        known: keys of the sessions that the upstream's actor knows of, or has been told of.
        use: where calls are counted; None where processes never rest.
    """

    def __init__(
        self,
        world: World,
        upstream: str,
        slot: Slot,
        processes: Directory,
        handshake: Handshake,
        registry: Slot,
        pool: bool,
        known: set[str],
        use: UpstreamUse | None = None,
    ) -> None:
        super().__init__(world, upstream, slot, processes, handshake, registry)
        self._pool = pool
        self._use = use
        self._shared = shared_name(slot)
        self._known = known

    def initialize(self, exchange: Exchange) -> Response:
        """Open a session at the shared children."""
        deadline_s = self.opening_deadline_s(exchange)
        described: ServerDescribed = self._slot.ask(
            DescribeServer(exchange.owner), deadline_s
        )
        assert exchange.message.id is not None
        version = agreed_version(exchange.message, described.version)
        members = msgspec.json.decode(described.result, type=dict[str, Raw])
        result = {**members, "protocolVersion": version}
        answer = jsonrpc.admit(jsonrpc_rewrite.result(exchange.message.id, result))
        assert isinstance(answer, Message)
        return self._handshake.create(exchange, answer, version)

    def call(self, exchange: Exchange) -> Response:
        """Submit the request; JSON if nothing but its answer comes, else an event stream."""
        use = self._use
        if use is None:
            return self._call(exchange)
        use.calls += 1
        try:
            if use.rests:
                self._wake(exchange)
            return self._call(exchange)
        finally:
            use.end(self._world.now_s())

    def _wake(self, exchange: Exchange) -> None:
        """Have the processes started, and wait until one has shaken hands."""
        try:
            until_s = min(exchange.deadline_s, self._world.now_s() + self.initialize_s_max)
            self._slot.ask(DescribeServer(exchange.owner), until_s)
        except (DeadlineError, ActorStoppedError, MailboxFullError) as error:
            text = "the server process did not start in time"
            raise FailedError(
                Reason.UPSTREAM_UNAVAILABLE, text, upstream=self.upstream
            ) from error

    def _call(self, exchange: Exchange) -> Response:
        session = exchange.in_session()
        self._make_known(session)
        if exchange.message.method in HANDLED_HERE:
            return self._call_upstream(exchange, session)
        if self._pool:
            return self._call_in_pool(exchange, session)
        return super().call(exchange)

    def post(self, exchange: Exchange) -> None:
        """Send a notification or a response, in order behind what was sent before."""
        session = exchange.in_session()
        self._make_known(session)
        if self._use is not None and self._use.rests:
            return  # nobody is there that it could concern
        target = self._slot if self._pool else self._target(session)
        if not target.tell(SendMessage(session.key, exchange.message)):
            raise self._gone()

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's standalone stream, which the proxy itself makes."""
        self._make_known(exchange.in_session())
        return self._open_at(self._slot, exchange)

    def _call_in_pool(self, exchange: Exchange, session: Session) -> Response:
        deadline_s = exchange.deadline_s
        answered = False
        try:
            child = self._take_child(exchange, deadline_s)
            target = self._channels.find(child)
            response = self._submit(target, exchange, session.key, deadline_s)
            answered = True
            return response
        finally:
            if not answered:
                self._slot.tell(ReleaseChild(exchange.id))

    def _call_upstream(self, exchange: Exchange, session: Session) -> Response:
        """Set the level or a subscription, and have the registry keep it if that went well."""
        response = self._submit(self._slot, exchange, session.key, exchange.deadline_s)
        note(self._registry, session.key, exchange.message, response.body)
        return response

    def _make_known(self, session: Session) -> None:
        """Have the upstream know of a session before anything of it can be in flight.

        An upstream that was started anew knows of none. It forgets those that have ended.
        """
        if session.key not in self._known and self._slot.tell(SessionSeen(session)):
            self._known.add(session.key)  # else each call of until it is heard would tell it

    def _target(self, session: Session) -> Slot:
        return self._channels.find(self._shared)

    def _gone(self, executed: Executed = Executed.NO) -> FailedError:
        if executed is not Executed.NO:
            return super()._gone(executed)
        # It is being started anew: what took nothing can be repeated in a moment (FLT-U3).
        text = "no server process is running"
        return FailedError(Reason.UPSTREAM_UNAVAILABLE, text, upstream=self.upstream)

"""Carries exchanges to an upstream at which each session has a channel of its own.

A channel is taken for each `initialize` and bound to the session that it opens; what the session
sends goes to that channel's actor, found by its name. The channels are child processes here, or
sessions at a server of HTTP+SSE (`gateway/sse_forward.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    Reason,
)
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.handshake import Handshake, negotiated_version
from proxy_actors.gateway.response import Response, json_response
from proxy_actors.messages.sessions import EndReason, EndSession, Session
from proxy_actors.messages.stdio import (
    AbandonCall,
    BindChild,
    CallAnswered,
    CallStreaming,
    OpenStandalone,
    ReleaseChild,
    SendMessage,
    SubmitCall,
    TakeChild,
)
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.world.base import World

DECIDE_S_MAX = 1.0
# The channel's actor ends every call at its deadline by itself; this is in case that it cannot.
_GRACE_S = 1.0


class ChannelForwarder(Forwarder):
    """Carries exchanges to one upstream.

    Args:
        upstream: its configured name.
        slot: the parent of the channels.
        channels: the channels by name.
    """

    def __init__(
        self,
        world: World,
        upstream: str,
        slot: Slot,
        channels: Directory,
        handshake: Handshake,
        registry: Slot,
    ) -> None:
        self.upstream = upstream
        self._world = world
        self._slot = slot
        self._channels = channels
        self._handshake = handshake
        self._registry = registry

    def initialize(self, exchange: Exchange) -> Response:
        """Shake hands over a fresh channel, and release it unless that opens a session."""
        deadline_s = self.opening_deadline_s(exchange)
        bound = False
        try:
            child = self._take_child(exchange, deadline_s)
            response = self._submit(self._channels.find(child), exchange, "", deadline_s)
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

    def call(self, exchange: Exchange) -> Response:
        """Submit the request; JSON if nothing but its answer comes, else an event stream."""
        session = exchange.in_session()
        return self._submit(self._target(session), exchange, session.key, exchange.deadline_s)

    def post(self, exchange: Exchange) -> None:
        """Send a notification or a response, in order behind what was sent before."""
        session = exchange.in_session()
        if not self._target(session).tell(SendMessage(session.key, exchange.message)):
            raise self._gone()

    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's standalone stream, which the proxy itself makes."""
        return self._open_at(self._target(exchange.in_session()), exchange)

    def watch_streams(self, failed: Callable[[], None]) -> None:
        """Hear of it once for each channel, where no call of it fails that would be told anyhow."""
        self._channels.on_cut = failed

    def _open_at(self, target: Slot, exchange: Exchange) -> Response:
        session = exchange.in_session()
        ask = OpenStandalone(session.key, exchange.owner.name)
        name: CallStreaming = target.ask(ask, self._world.now_s() + DECIDE_S_MAX)
        return Response(200, stream=name.stream)

    def _take_child(self, exchange: Exchange, deadline_s: float) -> str:
        began_s = self._world.now_s()
        take = TakeChild(exchange.id, deadline_s, exchange.owner)
        child: str = self._slot.ask(take, deadline_s)
        exchange.meter.queue.add(self._world.now_s() - began_s)
        return child

    def _submit(
        self, target: Slot, exchange: Exchange, session_key: str, deadline_s: float
    ) -> Response:
        ask = SubmitCall(exchange.id, session_key, exchange.message, deadline_s, exchange.owner)
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
        try:
            return self._channels.find(session.endpoint)
        except ActorStoppedError as error:
            # The channel ended with its parent, which knows of no session any more.
            self._registry.tell(EndSession(session.key, EndReason.LOST))
            raise self._gone() from error

    def _gone(self, executed: Executed = Executed.NO) -> FailedError:
        text = "the server process has ended"
        return FailedError(
            Reason.PROCESS_EXITED, text, executed=executed, upstream=self.upstream
        )

"""One client of the HTTP+SSE transport: the shell of `policy/legacy_stream.py`.

Owns the use of the session that the stream holds: both end with this actor, however it ends. Its
parent starts it and lists it among the streams, where the data plane finds it by the hash of the id
of its message endpoint. What the client is told does not pass here: who serves its requests leaves
the answers with the subscriber.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import FailedError, GatewayError, Reason, RefusedError, Side
from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyRefusal, LegacyStreamEffect, LegacyStreamMessage
from proxy_actors.messages.sessions import EndReason, EndSession, EndUse
from proxy_actors.messages.stream import CloseStream
from proxy_actors.policy.legacy_stream import LegacyStreamPolicy
from proxy_actors.world.base import Mailbox, World, no_timer

RETRY_AFTER_S = 1.0


class LegacyTasks(ABC):
    """What a stream has done by greenlets of the data plane. Nothing of it waits."""

    @abstractmethod
    def cancel(self, stream: str) -> None:
        """Tell the server that no request of this stream's is wanted any more (MCP-L-5)."""


class LegacyStream(Actor):
    """The actor of one stream.

    Args:
        opening: whose it is, and where.
        registry: hears that the session has ended.
        subscribers: where the stream's reader is found.
        tasks: what the data plane does for it.
    """

    def __init__(
        self,
        world: World,
        name: str,
        opening: m.OpenLegacyStream,
        registry: Mailbox,
        subscribers: Subscribers,
        tasks: LegacyTasks,
    ) -> None:
        super().__init__(world, name)
        self._use_id = opening.exchange_id
        self._registry = registry
        self._subscribers = subscribers
        self._tasks = tasks
        # A timer holds its actor: left alone, an ended stream would stay for as long.
        self._cancel_timer: Callable[[], None] = no_timer
        self._policy = LegacyStreamPolicy(opening.principal, opening.upstream)

    def on_start(self) -> None:
        """Start the clock."""
        self._apply(self._policy.begin())

    def on_receive(self, message: LegacyStreamMessage) -> object:
        """Apply the message; what is not answered otherwise is answered with True."""
        self._apply(self._policy.handle(message))
        reply = self.asked_by
        return LATER if reply is not None and reply.settled else True

    def on_end(self) -> None:
        """Leave no reader waiting, and no session."""
        self._cancel_timer()
        self._apply(self._policy.handle(CloseStream()))

    def on_crash(self) -> None:
        """The same, once more if it was being done."""
        self._cancel_timer()
        self._apply(self._policy.leave())

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"requests": self._policy.requests, "session": bool(self._policy.session_key)}

    def _apply(self, effects: list[LegacyStreamEffect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: LegacyStreamEffect) -> None:
        match effect:
            case m.AnswerFound(front_id, subscriber_id):
                self._answer(m.StreamFound(front_id, subscriber_id, self._use_id))
            case m.AnswerHeld(held):
                self._answer(held)
            case m.RefuseLegacy(refusal):
                if self.asked_by is not None:
                    self.asked_by.fail(refused(refusal))
            case m.TellHeld(session_key):
                if self.parent is not None:
                    self.parent.tell(m.SessionHeld(self.name, session_key))
            case m.WakeOpening(after_s):
                self._cancel_timer = self.world.timer(after_s, self.ref, m.OpeningDue())
            case m.EndReader(subscriber_id):
                subscriber = self._subscribers.find(subscriber_id)
                if subscriber is not None:
                    subscriber.end()
            case m.CancelRequests():
                self._tasks.cancel(self.name)
            case m.LeaveSession(session_key):
                self._registry.tell(EndUse(exchange_id=self._use_id))
                if session_key:
                    self._registry.tell(EndSession(session_key, EndReason.DELETED))
                self.stop()
            case _:
                assert_never(effect)

    def _answer(self, answer: object) -> None:
        if self.asked_by is not None:
            self.asked_by.set(answer)


def refused(refusal: LegacyRefusal) -> GatewayError:
    """Make the error of a refusal."""
    match refusal:
        case LegacyRefusal.UNKNOWN:
            return unknown()
        case LegacyRefusal.INITIALIZED:
            return RefusedError(400, "the session has been initialized")
        case LegacyRefusal.READ:
            return RefusedError(409, "this stream has a reader already")
        case LegacyRefusal.BUSY:
            reason, text = Reason.OVERLOADED, "too many requests of this session are being served"
        case LegacyRefusal.FULL:
            reason, text = Reason.OVERLOADED, "too many streams are open"
        case LegacyRefusal.DRAINING:
            reason, text = Reason.DRAINING, "the proxy is about to stop"
        case _:
            assert_never(refusal)
    return FailedError(reason, text, side=Side.PROXY, retry_after_s=RETRY_AFTER_S)


def unknown() -> RefusedError:
    """Make the error for a message endpoint that there is not, or not for this client."""
    return RefusedError(404, "there is no such session")

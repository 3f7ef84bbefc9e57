"""One event stream towards a client: the answer of a call, or a session's standalone stream.

Owns the ring of its latest events, its subscriber and, where the upstream is HTTP, its
source. A parent lists it in the `StreamDirectory` and starts it with `start_child`; it leaves
the directory itself when it ends. Events are mail of its own: from the reader of an HTTP stream, or
from the actor of a channel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.refs import Ref
from proxy_actors.actors.stream_directory import StreamDirectory, stream_id
from proxy_actors.actors.subscriber import Subscriber, Subscribers
from proxy_actors.errors import Executed, FailedError, Reason, RefusedError, Side
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import StreamEffect, StreamMessage
from proxy_actors.policy.event_stream import GONE, TAKEN, EventStreamPolicy
from proxy_actors.policy.reconnect import Reconnect
from proxy_actors.policy.stream_bounds import StreamOwner
from proxy_actors.world.base import World, no_timer

_REFUSALS = {
    TAKEN: "this session has a standalone stream already",
    GONE: "what followed this event is not here any more",
}


class EventSource(ABC):
    """Reads an upstream's event stream; implemented by the data plane."""

    @property
    @abstractmethod
    def dropped(self) -> int:
        """How many events were no message, and were left out."""

    @abstractmethod
    def read_into(self, stream: Ref) -> None:
        """Have what comes told from now on, and at last SourceEnded or SourceBroke.

        Runs in a greenlet, which need not last for as long.
        """

    @abstractmethod
    def reopen_into(self, stream: Ref) -> None:
        """Open another connection behind the last event, and go on. Runs in a greenlet."""

    @abstractmethod
    def break_off(self) -> None:
        """End the connection, as if it had broken. Never waits."""

    @abstractmethod
    def close(self, cancel: bool) -> None:
        """End the reading. Idempotent; never waits. With `cancel`, the server is told."""


class EventStream(Actor):
    """The actor of one stream.

    Args:
        subscribers: where subscribers are found.
        failure: makes the JSON-RPC error that answers the call; None for a standalone stream.
        deadline_s: when the call's time is up; math.inf when somebody else watches it.
        source: reads the upstream's stream; None when events are told by another actor.
        owner: whose it is, and so whose clients may read it.
        streams: where it is listed.
        reconnect: when the source is opened anew.
        request_id: under what it is written down; see `StreamDirectory.ring`.
    """

    # No less than a child's actor has: it hands on all that is in its box before a stream runs.
    mail_max = 10_000
    resident = False
    _dropped = 0
    _ended = False

    def __init__(
        self,
        world: World,
        name: str,
        subscribers: Subscribers,
        failure: Callable[[FailedError], bytes] | None = None,
        deadline_s: float = math.inf,
        source: EventSource | None = None,
        *,
        owner: StreamOwner,
        streams: StreamDirectory,
        reconnect: Reconnect | None = None,
        request_id: bytes | None = None,
    ) -> None:
        super().__init__(world, name)
        self._subscribers = subscribers
        self._failure = failure
        self._source = source
        self._streams = streams
        self._ring = streams.ring(name, owner, request_id)
        self._policy = EventStreamPolicy(
            failure is None, deadline_s, owner.session_key, streams.limits, reconnect, self._ring
        )
        # A timer holds its actor: left alone, ended streams would stay until their deadlines.
        self._cancel_timer: Callable[[], None] = no_timer
        self._cancel_reconnect: Callable[[], None] = no_timer

    def on_start(self) -> None:
        """Start the clock and the reader."""
        for effect in self._policy.begin(self.world.now_s()):
            self._perform(effect)
        if self._source is not None:
            self.world.spawn("stream reader", partial(self._source.read_into, self.ref))

    def on_stop_requested(self) -> None:
        """Stop behind what has been told: the answer, or why there is none, may be among it."""
        self.ref.tell(m.StopStream())

    def on_receive(self, message: StreamMessage | m.StopStream) -> object:
        """Apply the message. Subscribe is answered with `Subscribed`, or with a refusal."""
        if isinstance(message, m.StopStream):
            self.stop()
            return None
        for effect in self._policy.handle(message, self.world.now_s()):
            self._perform(effect)
        reply = self.asked_by
        return LATER if reply is not None and reply.settled else True

    def on_end(self) -> None:
        """Leave no subscriber waiting and no reader reading, and hold no place."""
        self._streams.remove(self.name)
        self._ring.close()
        self._cancel_timer()
        self._cancel_reconnect()
        if self._source is not None:
            self._source.close(cancel=False)
            self._source = None  # which holds this stream
        subscriber = self._subscriber()
        if subscriber is None:
            return
        if self._failure is not None and not self._ended:
            if self._policy.over:
                subscriber.abort()  # nobody knows whether the answer has gone out
            else:
                subscriber.push(self._failure(_lost()))
        subscriber.end()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        unread = 0 if self._source is None else self._source.dropped
        return {
            "subscribed": self._policy.subscriber_id is not None,
            "dropped": self._dropped + unread,
        }

    def _perform(self, effect: StreamEffect) -> None:
        match effect:
            case m.Push():
                self._push(effect.messages)
            case m.PushFailure(reason, text, executed):
                if self._failure is not None:
                    error = FailedError(reason, text, executed=executed)
                    self._push_own(self._failure(error))
            case m.AcceptSubscriber(after):
                if self.asked_by is not None:
                    self.asked_by.set(m.Subscribed(stream_id(self.name), after))
            case m.RefuseSubscriber(status):
                if self.asked_by is not None:
                    self.asked_by.fail(RefusedError(status, _REFUSALS[status]))
            case m.CutSubscriber(subscriber_id):
                replaced = self._subscribers.find(subscriber_id)
                if replaced is not None:
                    replaced.abort()
            case m.EndSubscriber(broken):
                self._end_subscriber(broken)
            case m.CloseSource(cancel):
                if self._source is not None:
                    self._source.close(cancel)
            case m.BreakSource():
                if self._source is not None:
                    self._source.break_off()
            case m.ReopenSource():
                assert self._source is not None
                self.world.spawn("stream reader", partial(self._source.reopen_into, self.ref))
            case m.WakeReconnect(after_s, generation):
                self._cancel_reconnect()
                due = m.ReconnectDue(generation)
                self._cancel_reconnect = self.world.timer(after_s, self.ref, due)
            case m.AnnounceAbandoned(why):
                if self.parent is not None:
                    self.parent.tell(m.StreamAbandoned(self.name, why))
            case m.AnnounceRequest(id):
                if self.parent is not None:
                    self.parent.tell(m.RequestOpened(self.name, id))
            case m.AnnounceClient(here):
                if self.parent is not None:
                    self.parent.tell(m.ClientMoved(self.name, here))
            case m.WakeStream(after_s, generation):
                self._cancel_timer()
                self._cancel_timer = self.world.timer(
                    after_s, self.ref, m.StreamDeadlineDue(generation)
                )
            case m.CountDropped(count):
                self._count_lost(count)
            case m.AnnounceOver():
                if self.parent is not None:
                    self.parent.tell(m.StreamOver(self.name))
                self._streams.keep_ended(self.slot)
            case m.Finish():
                if not self._streams.draining:
                    self._ring.forget()
                self.stop()
            case _:
                assert_never(effect)

    def _push(self, messages: tuple[bytes, ...]) -> None:
        subscriber_id = self._policy.subscriber_id
        assert subscriber_id is not None
        subscriber = self._subscribers.find(subscriber_id)
        if subscriber is None or not subscriber.push_all(messages):
            self.ref.tell(m.Unsubscribe(subscriber_id))

    def _push_own(self, data: bytes) -> None:
        self._count_lost(self._policy.keep(data, self.world.now_s()))
        if self._policy.subscriber_id is not None:
            self._push((data,))

    def _count_lost(self, count: int) -> None:
        self._dropped += count
        self._streams.meters.lost += count

    def _subscriber(self) -> Subscriber | None:
        subscriber_id = self._policy.subscriber_id
        return None if subscriber_id is None else self._subscribers.find(subscriber_id)

    def _end_subscriber(self, broken: bool) -> None:
        self._ended = True
        subscriber = self._subscriber()
        if subscriber is not None:
            subscriber.cut = subscriber.cut or broken
            subscriber.end()


def _lost() -> FailedError:
    text = "the proxy has lost the answer"
    return FailedError(Reason.INTERNAL, text, executed=Executed.UNKNOWN, side=Side.PROXY)

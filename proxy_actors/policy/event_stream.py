"""What happens on one event stream: who gets its messages, when its call's time is up, its end.

Owns the subscriber's name, the messages that wait for the first subscriber, the server's open
requests and the call's deadline. It never holds a connection. `actors/event_stream.py` is its
shell.

Rules. A message goes to one subscriber or to nobody (MCP-H-11). A client that leaves does not end a
call (MCP-S-21), but it ends a standalone stream, which is nothing without it. A call's stream ends
with its answer (MCP-S-22), with an error when its source or its session ends first, and without a
word when the client had cancelled the call. While the server waits for an answer of the client, the
call's clock stands still (MCP-X-7), but not for ever (MCP-X-5).
"""

from __future__ import annotations

import math
from typing import assert_never

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import MessageKind, StreamEffect, StreamMessage

PENDING_BYTES_MAX = 4 * 1024 * 1024
# How long a stream waits for its first subscriber: a standalone one, or one that is over.
UNCLAIMED_S_MAX = 30.0
# How long a call's clock may stand still: people answer some requests, and some they never see.
CLIENT_ANSWER_S_MAX = 3600.0


class EventStreamPolicy:
    """Decides for one stream.

    Args:
        standalone: whether the stream belongs to no call.
        deadline_s: when the call's time is up; math.inf when somebody else watches it.
    """

    def __init__(self, standalone: bool, deadline_s: float) -> None:
        self._standalone = standalone
        self._deadline_s = deadline_s
        self._remaining_s: float | None = None
        self._subscriber_id: int | None = None
        self._claimed = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._open_requests: set[bytes] = set()
        self._cancelled = False
        self._over = False
        self._generation = 0

    @property
    def subscriber_id(self) -> int | None:
        """Who gets the messages now."""
        return self._subscriber_id

    @property
    def over(self) -> bool:
        """Whether nothing more will come but what is pending."""
        return self._over

    def begin(self, now_s: float) -> list[StreamEffect]:
        """Start the clock."""
        effects: list[StreamEffect] = []
        self._wake(UNCLAIMED_S_MAX if self._standalone else self._deadline_s - now_s, effects)
        return effects

    def handle(self, message: StreamMessage, now_s: float) -> list[StreamEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[StreamEffect] = []
        match message:
            case m.EventReceived():
                self._received(message, now_s, effects)
            case m.Subscribe(subscriber_id):
                self._subscribe(subscriber_id, effects)
            case m.Unsubscribe(subscriber_id):
                self._unsubscribe(subscriber_id, effects)
            case m.SourceEnded(reason, text, executed):
                self._source_ended(reason, text, executed, effects)
            case m.RequestAnswered(id):
                self._answered(id, now_s, effects)
            case m.CallCancelled():
                self._cancelled = True
                self._open_requests.clear()
                self._resume_clock(now_s, effects)
            case m.CloseStream():
                self._close(effects)
            case m.StreamDeadlineDue(generation):
                if generation == self._generation:
                    self._time_is_up(effects)
            case _:
                assert_never(message)
        return effects

    def _received(
        self, event: m.EventReceived, now_s: float, effects: list[StreamEffect]
    ) -> None:
        if self._over:
            effects.append(m.CountDropped())
            return
        if not self._deliver(event, effects):
            effects.append(m.CountDropped())
        elif event.kind is MessageKind.REQUEST and event.id is not None:
            self._request_opened(event.id, now_s, effects)
        if event.final:
            self._end(effects)

    def _deliver(self, event: m.EventReceived, effects: list[StreamEffect]) -> bool:
        if self._subscriber_id is not None:
            effects.append(m.Push(event.data))
            return True
        pending_bytes = self._pending_bytes + len(event.data)
        if self._claimed or (pending_bytes > PENDING_BYTES_MAX and not event.final):
            return False
        self._pending.append(event.data)
        self._pending_bytes = pending_bytes
        return True

    def _request_opened(self, id: bytes, now_s: float, effects: list[StreamEffect]) -> None:
        effects.append(m.AnnounceRequest(id))
        if self._cancelled:
            return
        self._open_requests.add(id)
        if self._remaining_s is None and self._deadline_s < math.inf:
            self._remaining_s = max(self._deadline_s - now_s, 0.0)
            self._wake(CLIENT_ANSWER_S_MAX, effects)

    def _subscribe(self, subscriber_id: int, effects: list[StreamEffect]) -> None:
        if self._subscriber_id is not None:
            effects.append(m.RefuseSubscriber())
            return
        self._subscriber_id = subscriber_id
        self._claimed = True
        effects.extend(m.Push(data) for data in self._pending)
        self._pending.clear()
        if self._over:
            effects += [m.EndSubscriber(), m.Finish()]

    def _unsubscribe(self, subscriber_id: int, effects: list[StreamEffect]) -> None:
        if subscriber_id != self._subscriber_id:
            return
        self._subscriber_id = None
        if self._standalone and not self._over:
            self._give_up(effects)

    def _source_ended(
        self,
        reason: Reason | None,
        text: str,
        executed: Executed,
        effects: list[StreamEffect],
    ) -> None:
        if self._over:
            return
        if not self._standalone and not self._cancelled:
            if reason is None:
                reason, text = Reason.UPSTREAM_CLOSED, "the upstream ended without an answer"
            self._fail(reason, text, executed, effects)
        self._end(effects)

    def _close(self, effects: list[StreamEffect]) -> None:
        if self._over:
            return
        effects.append(m.CloseSource(cancel=False))
        if not self._standalone and not self._cancelled:
            text = "the session has ended"
            self._fail(Reason.SESSION_LOST, text, Executed.UNKNOWN, effects)
        self._end(effects)

    def _answered(self, id: bytes, now_s: float, effects: list[StreamEffect]) -> None:
        self._open_requests.discard(id)
        if not self._open_requests:
            self._resume_clock(now_s, effects)

    def _resume_clock(self, now_s: float, effects: list[StreamEffect]) -> None:
        if self._remaining_s is not None and not self._over:
            self._deadline_s = now_s + self._remaining_s
            self._wake(self._remaining_s, effects)
            self._remaining_s = None

    def _time_is_up(self, effects: list[StreamEffect]) -> None:
        if self._over:
            effects.append(m.Finish())  # nobody came for what is pending
        elif not self._standalone:
            effects.append(m.CloseSource(cancel=not self._cancelled))
            if not self._cancelled:
                text = "the upstream did not answer in time"
                self._fail(Reason.UPSTREAM_TIMEOUT, text, Executed.UNKNOWN, effects)
            self._end(effects)
        elif not self._claimed:
            self._give_up(effects)

    def _give_up(self, effects: list[StreamEffect]) -> None:
        """End a standalone stream that nobody reads."""
        self._over = True
        effects += [m.CloseSource(cancel=False), m.Finish()]

    def _fail(
        self, reason: Reason, text: str, executed: Executed, effects: list[StreamEffect]
    ) -> None:
        """Say it to whoever is there or first comes; a client that left has nobody to tell."""
        if self._subscriber_id is not None or not self._claimed:
            effects.append(m.PushFailure(reason, text, executed))

    def _end(self, effects: list[StreamEffect]) -> None:
        self._over = True
        if self._claimed:
            effects += [m.EndSubscriber(), m.Finish()]
        else:
            self._wake(UNCLAIMED_S_MAX, effects)

    def _wake(self, after_s: float, effects: list[StreamEffect]) -> None:
        self._generation += 1
        if after_s < math.inf:
            effects.append(m.WakeStream(max(after_s, 0.0), self._generation))

    def keep(self, data: bytes) -> None:
        """Hold a message, made by the shell, for the first subscriber."""
        self._pending.append(data)

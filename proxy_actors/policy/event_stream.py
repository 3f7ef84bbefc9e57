"""What happens on one event stream: who gets its messages, when its call's time is up, its end.

Owns the subscriber's name, the ring of the latest messages, the server's open requests and the
call's deadline. It never holds a connection. `actors/event_stream.py` is its shell.

Rules. A message has a number and goes to one subscriber (MCP-H-11), or waits in the ring for one
that comes (back) and says where it was; it gets exactly what followed, or a refusal (MCP-S-16). Who
comes without saying so gets what nobody has got. A client that leaves does not end a call
(MCP-S-21); a standalone stream waits for its client for as long as the ring may keep a message. A
call's stream ends with its answer (MCP-S-22), with an error when its source or its session ends
first, and without a word when the client had cancelled the call. A source that breaks is opened
anew where nothing is lost or executed twice thereby: a call's where the server named a place to go
on from (MCP-S-17), a standalone stream's always. It stays for a while after its end, as nobody
knows whether all of it has arrived. While the server waits for an answer of the client, the call's
clock stands still (MCP-X-7), but not for ever (MCP-X-5), nor while the client is away: who may
never come back is not waited for. Who watches the clock of a call instead hears when its client
leaves and comes back.
"""

from __future__ import annotations

import math
from typing import assert_never

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stream as m
from proxy_actors.messages.stream import MessageKind, StreamEffect, StreamMessage
from proxy_actors.policy.reconnect import Reconnect
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.stream_limits import StreamLimits

# How long a call's clock may stand still: people answer some requests, and some they never see.
CLIENT_ANSWER_S_MAX = 3600.0
# A reader is there already; what followed cannot be had (any more).
TAKEN, GONE = 409, 410
_REQUEST = MessageKind.REQUEST


class EventStreamPolicy:
    """Decides for one stream.

    Args:
        standalone: whether the stream belongs to no call.
        deadline_s: when the call's time is up; math.inf when somebody else watches it.
        session_key: whose clients may subscribe.
        limits: what is kept for them.
        reconnect: when a source that broke is opened anew; None where there is none to open.
        ring: where it is kept; one of its own without it.
    """

    def __init__(
        self,
        standalone: bool,
        deadline_s: float,
        session_key: str = "",
        limits: StreamLimits = StreamLimits(),
        reconnect: Reconnect | None = None,
        ring: ReplayRing | None = None,
    ) -> None:
        self._standalone = standalone
        self._deadline_s = deadline_s
        self._session_key = session_key
        self._wait_s_max = limits.age_s_max
        self._remaining_s: float | None = None
        self._answer_by_s = math.inf
        self.subscriber_id: int | None = None
        """Who gets the messages now."""
        self._claimed = False
        self._ring = ReplayRing(limits) if ring is None else ring
        self._pushed = 0
        self._open_requests: set[bytes] = set()
        self._cancelled = False
        self._over = False
        self._broken = False
        self._reconnect = reconnect
        self._generation = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come but what is in the ring."""
        return self._over

    def begin(self, now_s: float) -> list[StreamEffect]:
        """Start the clock."""
        effects: list[StreamEffect] = []
        self._wake(self._wait_s_max if self._standalone else self._deadline_s - now_s, effects)
        return effects

    def keep(self, data: bytes, now_s: float) -> int:
        """Give a message its number; return how many have gone to nobody to make room for it."""
        self._ring.append(data, now_s)
        if self.subscriber_id is not None:
            self._pushed = self._ring.last
        return self._count_lost()

    def handle(self, message: StreamMessage, now_s: float) -> list[StreamEffect]:
        """Apply one message and return what is to be done, in order."""
        effects: list[StreamEffect] = []
        match message:
            case m.EventReceived():
                self._received((message,), now_s, effects)
            case m.EventsReceived():
                self._received(message.events, now_s, effects)
            case m.Subscribe():
                self._subscribe(message, now_s, effects)
            case m.Unsubscribe(subscriber_id):
                self._unsubscribe(subscriber_id, now_s, effects)
            case m.SourceEnded(reason, text, executed):
                self._source_ended(reason, text, executed, effects)
            case m.SourceBroke():
                self._source_broke(message, effects)
            case m.SourceSilent():
                if not self._over and not self._open_requests:  # else a person may be thinking
                    effects.append(m.BreakSource())
            case m.BreakOff():
                if not self._over:
                    effects.append(m.BreakSource())
            case m.ReconnectDue(generation):
                self._reconnect_due(generation, effects)
            case m.RequestAnswered(id):
                self._answered(id, now_s, effects)
            case m.CallCancelled():
                self._call_cancelled(now_s, effects)
            case m.CloseStream():
                self._close(effects)
            case m.StreamDeadlineDue(generation):
                if generation == self._generation:
                    self._time_is_up(effects)
            case _:
                assert_never(message)
        return effects

    def _received(
        self, events: tuple[m.EventReceived, ...], now_s: float, effects: list[StreamEffect]
    ) -> None:
        if self._over:
            effects.append(m.CountDropped(len(events)))
            return
        for event in events:
            self._ring.append(event.data, now_s)
        if self.subscriber_id is not None:
            self._pushed = self._ring.last
            one = len(events) == 1
            messages = (event.data,) if one else tuple([each.data for each in events])
            effects.append(m.Push(messages))
        elif lost := self._count_lost():
            effects.append(m.CountDropped(lost))
        for event in events:
            if event.kind is _REQUEST and event.id is not None:
                self._request_opened(event.id, now_s, effects)
        if event.final:
            self._end(effects)

    def _request_opened(self, id: bytes, now_s: float, effects: list[StreamEffect]) -> None:
        effects.append(m.AnnounceRequest(id))
        if self._cancelled or (self._standalone and self._is_away()):
            return  # its answer may never come
        if not self._open_requests:
            self._answer_by_s = now_s + CLIENT_ANSWER_S_MAX
        self._open_requests.add(id)
        self._mind_clock(now_s, effects)

    def _subscribe(
        self, subscribe: m.Subscribe, now_s: float, effects: list[StreamEffect]
    ) -> None:
        after = subscribe.after
        if subscribe.session_key != self._session_key:
            effects.append(m.RefuseSubscriber(GONE))
            return
        if after is None and self.subscriber_id is not None:
            effects.append(m.RefuseSubscriber(TAKEN))
            return
        self._ring.expire(now_s)
        lost = self._count_lost()
        if lost:
            effects.append(m.CountDropped(lost))
        since = self._pushed if after is None else after
        events = self._ring.since(since)
        if events is None or (self._over and not events and after is not None):
            effects.append(m.RefuseSubscriber(GONE))
            return
        was_away = self._is_away()
        if self.subscriber_id is not None:
            effects.append(m.CutSubscriber(self.subscriber_id))
        self.subscriber_id = subscribe.subscriber_id
        self._claimed = True
        self._pushed = self._ring.last
        if self._over:
            self._ring.is_unread(over=True)
        else:
            self._ring.is_read(now_s)
        effects.append(m.AcceptSubscriber(since))
        if events:
            effects.append(m.Push(tuple(events)))
        if self._over:
            effects.append(m.EndSubscriber(self._broken))
        elif was_away:
            self._client_moved(now_s, effects)

    def _count_lost(self) -> int:
        """Count what nobody has got, and nobody will."""
        lost = max(self._ring.first - 1 - self._pushed, 0)
        self._pushed += lost
        return lost

    def _unsubscribe(
        self, subscriber_id: int, now_s: float, effects: list[StreamEffect]
    ) -> None:
        if subscriber_id != self.subscriber_id:
            return
        self.subscriber_id = None
        self._ring.is_unread(self._over)
        if not self._over:
            self._client_moved(now_s, effects)

    def _client_moved(self, now_s: float, effects: list[StreamEffect]) -> None:
        """The client has left, or is back."""
        if not self._standalone:
            self._mind_clock(now_s, effects)
            if self._deadline_s == math.inf:
                effects.append(m.AnnounceClient(not self._is_away()))
        elif self._is_away():
            self._wake(self._wait_s_max, effects)

    def _is_away(self) -> bool:
        """Whether the client has been here and is not."""
        return self._claimed and self.subscriber_id is None

    def _source_broke(self, broke: m.SourceBroke, effects: list[StreamEffect]) -> None:
        reconnect = self._reconnect
        if self._over or reconnect is None:
            return
        if self._standalone or (broke.resumable and not self._cancelled):
            wait_s = reconnect.next_attempt(broke)
            if wait_s is not None:
                effects.append(m.WakeReconnect(wait_s, reconnect.generation))
                return
            effects.append(m.AnnounceAbandoned(broke.text))
        self._source_ended(broke.reason, broke.text, Executed.UNKNOWN, effects)

    def _reconnect_due(self, generation: int, effects: list[StreamEffect]) -> None:
        reconnect = self._reconnect
        if reconnect is not None and reconnect.due(generation) and not self._over:
            effects.append(m.ReopenSource())

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
            effects.append(m.PushFailure(reason, text, executed))
        self._broken = self._standalone and reason is not None
        self._end(effects)

    def _close(self, effects: list[StreamEffect]) -> None:
        if self._over:
            if self._claimed:
                effects.append(m.Finish())
            return
        effects.append(m.CloseSource(cancel=False))
        if not self._standalone and not self._cancelled:
            text = "the session has ended"
            effects.append(m.PushFailure(Reason.SESSION_LOST, text, Executed.UNKNOWN))
        self._end(effects)
        if self._claimed:
            effects.append(m.Finish())  # nobody can come back to it

    def _answered(self, id: bytes, now_s: float, effects: list[StreamEffect]) -> None:
        self._open_requests.discard(id)
        self._mind_clock(now_s, effects)

    def _call_cancelled(self, now_s: float, effects: list[StreamEffect]) -> None:
        self._cancelled = True
        self._open_requests.clear()
        self._mind_clock(now_s, effects)
        if self._reconnect is not None and self._reconnect.waiting and not self._over:
            self._end(effects)

    def _mind_clock(self, now_s: float, effects: list[StreamEffect]) -> None:
        """Have the call's clock stand still or go on."""
        stands = bool(self._open_requests) and not self._is_away()
        if self._over or self._deadline_s == math.inf or stands == (self._remaining_s is not None):
            return
        if self._remaining_s is None:
            self._remaining_s = max(self._deadline_s - now_s, 0.0)
            self._wake(self._answer_by_s - now_s, effects)
        else:
            self._deadline_s = now_s + self._remaining_s
            self._wake(self._remaining_s, effects)
            self._remaining_s = None

    def _time_is_up(self, effects: list[StreamEffect]) -> None:
        if self._over:
            effects.append(m.Finish())
        elif not self._standalone:
            effects.append(m.CloseSource(cancel=not self._cancelled))
            if not self._cancelled:
                text = "the upstream did not answer in time"
                effects.append(m.PushFailure(Reason.UPSTREAM_TIMEOUT, text, Executed.UNKNOWN))
            self._end(effects)
        elif self.subscriber_id is None:
            self._give_up(effects)

    def _give_up(self, effects: list[StreamEffect]) -> None:
        """End a standalone stream that nobody reads."""
        self._over = True
        effects += [m.CloseSource(cancel=False), m.Finish()]

    def _end(self, effects: list[StreamEffect]) -> None:
        self._over = True
        if self._claimed:
            self._ring.is_unread(over=True)
        if self.subscriber_id is not None:
            effects.append(m.EndSubscriber(self._broken))
        effects.append(m.AnnounceOver())
        self._wake(self._wait_s_max, effects)

    def _wake(self, after_s: float, effects: list[StreamEffect]) -> None:
        self._generation += 1
        if after_s < math.inf:
            effects.append(m.WakeStream(max(after_s, 0.0), self._generation))

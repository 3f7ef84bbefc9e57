"""One event stream of an HTTP upstream, read over as many connections as it takes.

Owns the connection of the moment and the id of the last event that came whole (MCP-S-17). A stream
on which nothing happens holds no greenlet: the loop tells what comes, and a timer that nothing
does. It never decides: its stream's actor says whether and when a connection that broke is replaced
(`policy/reconnect.py`). What an event stream may not be replaced by is a second execution: it is
opened anew with GET, and the request that it answers is never sent again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.refs import Ref
from proxy_actors.errors import (
    INTERNAL_ERROR,
    Executed,
    FailedError,
    GatewayError,
    ProxyActorsError,
    Reason,
)
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.messages.stream import (
    EventReceived,
    EventsReceived,
    MessageKind,
    SourceBroke,
    SourceEnded,
    SourceSilent,
)
from proxy_actors.policy.event_stream import TAKEN
from proxy_actors.policy.stdio_calls import CANNOT_BE_ASKED, KINDS
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.revisions import TOOLS_CHANGED
from proxy_actors.world.base import World, no_timer

# Ids are copied into a field of a request; nothing that stands for a place in a stream is longer.
EVENT_ID_BYTES_MAX: Final = 4096
# A connection that has stood for so long was no failure to open one.
STEADY_S: Final = 10.0

Reopen = Callable[[bytes], HttpExchange]
"""Opens a stream anew behind the event of this id, or from now on where that means nothing.

Raises:
    RefusedError: the upstream will not open it, now or later.
    FailedError: it did not open; `retry_after_s` as it asks.
"""


class HttpSource(EventSource):
    """Reads one event stream.

    Args:
        exchange: the connection on which the stream began.
        reopen: opens the next one.
        silence_s_max: how long nothing may come on a connection that can be replaced. A call whose
            server names no place to go on from has its own deadline.
        on_cancel: tells the server that the call is not wanted any more.
        on_tools_changed: hears that the server's list of tools is another now.
    """

    def __init__(
        self,
        world: World,
        exchange: HttpExchange,
        reopen: Reopen,
        silence_s_max: float,
        on_cancel: Callable[[], None] | None = None,
        on_tools_changed: Callable[[], None] | None = None,
    ) -> None:
        self._world = world
        self._exchange = exchange
        self._reopen = reopen
        self._silence_s_max = silence_s_max
        self._on_cancel = on_cancel
        self._on_tools_changed = on_tools_changed
        self._retry_s: float | None = None
        self._dropped_before = 0
        self._answered = False
        self._closed = False
        self._broken_off = False
        # Of the connection that is read.
        self._stream: Ref
        self._began_s = self._heard_s = 0.0
        self._reading = False
        self._cancel_timer: Callable[[], None] = no_timer

    @property
    def dropped(self) -> int:
        """How many events were no message, and were left out."""
        return self._dropped_before + self._exchange.events.dropped

    def read_into(self, stream: Ref) -> None:
        """Tell what has come with the answer's head, and have the loop tell what follows."""
        self._stream = stream
        self._began_s = self._world.now_s()
        self._reading = False
        self._tell(self._exchange.take_messages)

    def reopen_into(self, stream: Ref) -> None:
        """Replace a connection that broke, and read it."""
        try:
            exchange = self._reopen(self._place())
        except GatewayError as error:
            stream.tell(self._not_opened(error))
            return
        except ProxyActorsError:  # somebody of ours did not answer
            stream.tell(self._broke(None))
            return
        except BaseException:
            stream.tell(SourceEnded(Reason.INTERNAL, "the stream was not opened anew"))
            raise
        self._dropped_before += self._exchange.events.dropped
        self._exchange = exchange
        self._broken_off = False
        if self._closed:
            exchange.abandon()
        else:
            self.read_into(stream)

    def break_off(self) -> None:
        """End the connection under its reader, as if it had broken."""
        self._broken_off = True
        self._exchange.discard()

    def close(self, cancel: bool) -> None:
        """End the reading by closing the connection, unless the answer has been read."""
        self._closed = True
        if not self._answered:
            self._exchange.discard()
        if cancel and self._on_cancel is not None:
            self._on_cancel()

    def tell(self, message: SourceSilent) -> bool:
        """For its timer: pass it on where nothing has come for as long, and begin anew."""
        now_s = self._world.now_s()
        left_s = self._heard_s + self._silence_s_max - now_s
        if left_s <= 0.0:
            left_s, self._heard_s = self._silence_s_max, now_s
            # A call whose server names no place to go on from has its deadline and nothing else.
            if self._exchange.request_id is None or self._place():
                self._stream.tell(message)
        self._cancel_timer = self._world.timer(left_s, self, message)
        return True

    def _on_input(self) -> None:
        clock = self._world.now_s
        self._heard_s = clock()
        self._tell(self._exchange.read_messages)

    def _tell(self, take: Callable[[], tuple[jsonrpc.Message, ...]]) -> None:
        """Tell what there is, and go on. Called by the loop: what must wait gets a greenlet."""
        exchange = self._exchange
        try:
            event = self._received(take())
            if event is not None and not self._stream.deliver_if_room(event):
                self._stop_reading()
                self._world.spawn("stream reader", partial(self._tell_when_room, event))
            elif self._answered or exchange.ended:
                self._end()
            elif not self._reading:
                self._reading = True
                self._heard_s = self._world.now_s()
                self._cancel_timer = self._world.timer(
                    self._silence_s_max, self, SourceSilent()
                )
                exchange.on_input(self._on_input)
        except BaseException:
            self._fail()
            raise

    def _tell_when_room(self, event: EventReceived | EventsReceived) -> None:
        """Tell what a full box did not take. What comes meanwhile stays where it is."""
        try:
            self._stream.deliver_when_room(event, math.inf)
        except BaseException:
            self._fail()
            raise
        self._tell(self._exchange.take_messages)

    def _received(
        self, messages: tuple[jsonrpc.Message, ...]
    ) -> EventReceived | EventsReceived | None:
        """Return the mail that tells messages, up to the answer; None where there are none."""
        events = []
        for message in messages:
            if message.kind is jsonrpc.NOTIFICATION:
                events.append(EventReceived(message.raw, MessageKind.NOTIFICATION))
                if self._on_tools_changed is not None and message.method == TOOLS_CHANGED:
                    self._on_tools_changed()
                continue
            if self._exchange.is_final(message):
                self._answered = True
            elif message.kind is jsonrpc.RESPONSE:
                continue  # an answer to nothing that was asked here (MCP-S-14)
            events.append(
                EventReceived(message.raw, KINDS[message.kind], message.id, self._answered)
            )
            if self._answered:
                break
        if len(events) > 1:
            return EventsReceived(tuple(events))
        return events[0] if events else None

    def _stop_reading(self) -> None:
        self._reading = False
        self._cancel_timer()
        self._exchange.on_input(None)

    def _fail(self) -> None:
        """End what nobody has thought of."""
        self._stop_reading()
        self._exchange.abandon()
        self._stream.tell(SourceEnded(Reason.INTERNAL, "the answer was not read to its end"))

    def _end(self) -> None:
        """Tell how the connection has ended, and give it back."""
        exchange = self._exchange
        self._stop_reading()
        self._stream.tell(self._ending())
        if not self._answered:
            exchange.abandon()
        elif exchange.complete:
            exchange.finish()
        else:
            self._world.spawn("answer tail", exchange.finish)

    def _ending(self) -> SourceBroke | SourceEnded:
        if self._answered:
            return SourceEnded()
        events = self._exchange.events
        clean = events.failure is None
        cause = events.dropped_error if clean else events.failure
        if events.retry_ms is not None:
            self._retry_s = events.retry_ms / 1000
        standalone = self._exchange.request_id is None
        if cause is not None and cause.reason is Reason.UPSTREAM_PROTOCOL:
            if not (standalone and clean):  # a connection more would bring it again
                return SourceEnded(cause.reason, cause.text, cause.executed)
        stood = self._world.now_s() - self._began_s >= STEADY_S
        return self._broke(
            cause, heard=events.heard or stood, clean=clean and events.placed
        )

    def _not_opened(self, error: GatewayError) -> SourceBroke | SourceEnded:
        """Say what it means that the stream was not opened anew.

        To the call it means that its stream has ended: why there is no other, be it that nothing
        could be sent, says nothing of the request, which was.
        """
        if isinstance(error, FailedError) and error.reason is not Reason.SESSION_LOST:
            text = f"the upstream's stream broke, and was not opened anew: {error.text}"
            cause = FailedError(Reason.UPSTREAM_CLOSED, text, executed=Executed.UNKNOWN)
            return self._broke(cause, least_s=error.retry_after_s)
        if error.status == TAKEN:  # the server has not seen yet that the connection broke
            return self._broke(None)
        reason = error.reason if isinstance(error, FailedError) else Reason.UPSTREAM_CLOSED
        return SourceEnded(reason, error.text)

    def _place(self) -> bytes:
        """Return the id of the last event, behind which another connection can go on."""
        id = self._exchange.events.last_event_id
        return id if len(id) <= EVENT_ID_BYTES_MAX else b""

    def _broke(
        self,
        cause: FailedError | None,
        *,
        heard: bool = False,
        clean: bool = False,
        least_s: float | None = None,
    ) -> SourceBroke:
        waits = [x for x in (self._retry_s, least_s) if x is not None]
        return SourceBroke(
            resumable=bool(self._place()),
            heard=heard,
            clean=clean,
            idle=self._broken_off,
            retry_s=max(waits, default=None),
            reason=Reason.UPSTREAM_CLOSED if cause is None else cause.reason,
            text="the upstream ended without an answer" if cause is None else cause.text,
        )


def read_alone(
    exchange: HttpExchange,
    deadline_s: float,
    answer: Callable[[bytes], None],
    on_tools_changed: Callable[[], None] | None = None,
) -> jsonrpc.Message:
    """Read on to the answer of a call that may have no stream: nobody hears what else is said.

    The call has been sent, so nothing but its answer would be true. A server that asks the client
    something is told that it cannot be asked, and does not wait for it in vain.

    Args:
        answer: sends the server what answers it.
        on_tools_changed: hears that the server's list of tools is another now.

    Raises:
        FailedError: the answer was not to be had.
    """
    while True:
        message = exchange.next_message(deadline_s)
        if exchange.is_final(message):
            return message
        if message.kind is jsonrpc.REQUEST:
            answer(jsonrpc_rewrite.error(message.id, INTERNAL_ERROR, CANNOT_BE_ASKED))
        elif on_tools_changed is not None and message.method == TOOLS_CHANGED:
            on_tools_changed()

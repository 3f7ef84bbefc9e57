"""The listener of clients: serves a bound socket, counts and bounds connections, drains.

It also looks how busy the loop is and how much of its bounds the process uses, and takes in less
when `policy/intake.py` says so.

The socket is bound before the tree of actors is started, so that it outlives a crash of this actor:
connections then wait in the kernel until the next incarnation serves them. Each is served by a
greenlet of its own through `gateway/handle.py`; this actor never reads or writes one.

In a drain it goes on accepting until the requests of before have been answered: their clients may
have answers, cancellations and ends of sessions to send, and whoever comes with a new call is told
to go elsewhere. A connection that is accepted then ends after one request. Idle connections are
ended a moment later than they could be: a request that is on its way would be lost with them.

Where the socket is kept by others for the process that comes next, it is handed over before the
drain begins: until the calls of then have been answered all is served as ever, and who connects
later waits in the kernel for the other process. Calls that have come meanwhile, on connections that
there were, are answered as well before the drain would refuse them.

Who comes when there is no room is told so with 503, so many at a time; a flood beyond that is cut.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import assert_never

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import (
    DeadlineError,
    FailedError,
    Reason,
    Side,
    StreamClosedError,
)
from proxy_actors.gateway import rescue
from proxy_actors.gateway.handle import LAST_S_MAX, ClientConnection
from proxy_actors.gateway.relay import write_response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.legacy import DrainLegacy
from proxy_actors.messages.lifecycle import Stop
from proxy_actors.messages import server as m
from proxy_actors.messages.server import (
    ConnectionEnded,
    DrainServer,
    HandOver,
    HandOverDue,
    IdleDue,
    IntakeEffect,
    IntakeMessage,
    LegacyCallsEnded,
    ListenerHandedOver,
    ServerDrained,
)
from proxy_actors.policy.intake import IntakeLimits, IntakePolicy
from proxy_actors.world.base import ByteStream, Listener, World

REFUSE_S_MAX = 1.0
# How many connections at a time are told that there is no room for them; each costs a descriptor
# and a greenlet until its client has left. What comes beyond is closed without a word.
REFUSING_MAX = 64
# How long calls that a stop has cut short may take to be answered.
ANSWER_S_MAX = 1.0
# How long a hand-over waits for the calls that run: half of the time that a drain has.
HAND_OVER_S_MAX = 15.0
# How often the lag of the loop is looked at; while requests wait, in every round of the loop.
LOOK_S = 0.02
LOOK_GATED_S = 0.001
WEIGH_S = 0.5

logger = logging.getLogger("proxy_actors.server")


class HttpServer(Actor):
    """Serves one listening socket; `listener` is bound already."""

    def __init__(
        self,
        world: World,
        slot: Slot,
        listener: Listener,
        wiring: Wiring,
        intake: IntakeLimits = IntakeLimits(),
    ) -> None:
        super().__init__(world, slot.name)
        self._listener = listener
        self._wiring = wiring
        self._clients = wiring.clients
        self._gate = wiring.gate
        self._intake = IntakePolicy(intake)
        self._weighed_s = 0.0
        self._end_watch: Callable[[], None] | None = None
        self._refused = self._untold = self._refusing = 0
        self._stopping = self._closed = self._overdue = False

    def on_start(self) -> None:
        """Serve, or go on with a hand-over or a drain that has begun."""
        if self._wiring.draining and not self._wiring.handing_over:
            self._drain()
            return
        self._listener.serve(self._accept)
        self._watch(LOOK_S)
        logger.info("listening host=%s port=%d", *self._listener.address)
        if self._wiring.handing_over:
            self._hand_over()

    def on_receive(
        self,
        message: (
            HandOver | HandOverDue | LegacyCallsEnded | DrainServer | IdleDue | ConnectionEnded
            | IntakeMessage
        ),
    ) -> None:
        """Hand over or drain, see whether that is done, or take in more or less."""
        match message:
            case HandOver():
                self._hand_over()
            case HandOverDue():
                self._overdue = True
                if self._wiring.handing_over:
                    self._leave_listener()
            case DrainServer():
                self._drain()
            case IdleDue():
                self._clients.close_idle()
                if not self._wiring.handing_over:
                    self._report()
                elif self._clients.calling and not self._overdue:
                    self._wait_for_idle()
                else:
                    self._tell_parent(ListenerHandedOver())
            case ConnectionEnded():
                self._report()
            case LegacyCallsEnded():
                if self._wiring.handing_over:  # a drain awaits their streams
                    self._report()
            case _:
                for effect in self._intake.handle(message):
                    if self._end_watch is not None:
                        self._perform(effect)

    def on_stop_requested(self) -> None:
        """Stop when every connection has ended; a second time, or after a while, at once."""
        if self._stopping or not self._clients:
            self.stop()
            return
        self._stopping = self._wiring.draining = True
        self._take_no_more()
        self.world.timer(ANSWER_S_MAX, self.ref, Stop())

    def on_stop(self) -> None:
        """Accept no more, end every connection."""
        self._take_no_more()
        self._clients.close_all()

    def on_crash(self) -> None:
        """Have connections wait for the next incarnation; those that are served go on."""
        self._watch_no_more()
        self._listener.pause()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            "connections": len(self._clients),
            "draining": self._wiring.draining,
            "waiting": len(self._gate),
            "paused": self._intake.paused,
            "refused": self._refused,
            "untold": self._untold,
            "refusing": self._refusing,
        }

    def _hand_over(self) -> None:
        self._clients.begin_hand_over()
        self._wiring.legacy_calls.begin_hand_over(partial(self.slot.tell, LegacyCallsEnded()))
        self.world.timer(HAND_OVER_S_MAX, self.ref, HandOverDue())
        self._report()

    def _drain(self) -> None:
        self._watch_no_more()
        self._clients.begin_drain()
        if self._clients.awaited:
            self._listener.serve(self._accept)  # it may not have been, for how busy the loop was
        self._wait_for_idle()
        self._report()

    def _wait_for_idle(self) -> None:
        self.world.timer(LAST_S_MAX, self.ref, IdleDue())

    def _take_no_more(self) -> None:
        self._watch_no_more()
        self._listener.close()
        self._clients.close_idle()

    # What is taken in.

    def _look(self, lag_s: float) -> None:
        """See how late the loop is, in the loop itself; most looks are told to nobody."""
        if lag_s >= self._intake.lag_s_noted or self._intake.gated:
            # At once: the box of an actor is served as late as all else.
            self.ref.deliver(m.LagSeen(lag_s, len(self._gate)))
        now_s = self.world.now_s()
        if now_s - self._weighed_s >= WEIGH_S:
            self._weighed_s = now_s
            process = self.world.process_figures()
            self.ref.deliver(m.ProcessWeighed(
                process.rss_bytes / (process.memory_bytes_max or math.inf),
                process.fds / (process.fds_max or math.inf),
            ))

    def _perform(self, effect: IntakeEffect) -> None:
        match effect:
            case m.PauseAccepting():
                self._listener.pause()
            case m.ResumeAccepting():
                self._listener.serve(self._accept)
            case m.CloseGate():
                self._gate.close()
                self._watch(LOOK_GATED_S)
            case m.LetIn(requests):
                self._gate.let_in(requests)
            case m.OpenGate():
                self._gate.open()
                self._watch(LOOK_S)
            case m.RefuseConnections(refuse):
                logger.warning("connections_refused begins=%s", refuse)
            case _:
                assert_never(effect)

    def _watch(self, every_s: float) -> None:
        if self._end_watch is not None:
            self._end_watch()
        self._end_watch = self.world.watch_lag(every_s, self._look)

    def _watch_no_more(self) -> None:
        if self._end_watch is not None:
            self._end_watch()
            self._end_watch = None
        self._gate.open()

    def _report(self) -> None:
        handing_over = self._wiring.handing_over
        if self._clients.awaited or handing_over and self._wiring.legacy_calls:
            return
        self._leave_listener()
        if self._clients or handing_over:
            return
        if self._stopping:
            self.stop()
        else:
            self._tell_parent(ServerDrained())

    def _leave_listener(self) -> None:
        if not self._closed:
            self._closed = True
            self._listener.close()
            self._wait_for_idle()
            if self._wiring.handing_over:
                # Their messages come on connections of their own, which the other process has now.
                self._wiring.legacy.tell(DrainLegacy())

    def _tell_parent(self, message: ServerDrained | ListenerHandedOver) -> None:
        if self.parent is not None:
            self.parent.tell(message)

    def _accept(self, stream: ByteStream) -> None:
        """Serve one connection, in its own greenlet."""
        if self._intake.refuses or not self._clients.has_room(stream.peer):
            self._refuse(stream)
            return
        connection = ClientConnection(stream, self._wiring)
        self._clients.enter(connection, stream.peer)
        connection.serve(partial(self._ended, connection))

    def _ended(self, connection: ClientConnection) -> None:
        self._clients.leave(connection)
        if self._wiring.draining:
            self.slot.tell(ConnectionEnded())

    def _refuse(self, stream: ByteStream) -> None:
        self._refused += 1
        if self._refusing >= REFUSING_MAX:
            self._untold += 1
            stream.close()
            return
        self._refusing += 1
        try:
            self._tell_refusal(stream)
        finally:
            self._refusing -= 1
            stream.close()

    def _tell_refusal(self, stream: ByteStream) -> None:
        text = "too many connections"
        error = FailedError(
            Reason.OVERLOADED, text, side=Side.PROXY, retry_after_s=1.0, close=True
        )
        try:
            stream.handshake(self.world.now_s() + REFUSE_S_MAX)
            write_response(stream, rescue.respond(error, None, ""), None, self._wiring, True)
            stream.close_lingering(self.world.now_s() + REFUSE_S_MAX)
        except (StreamClosedError, DeadlineError):
            pass  # it did not wait for its refusal

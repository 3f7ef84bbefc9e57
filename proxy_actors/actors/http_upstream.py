"""One HTTP upstream: supervisor of its connection pool, parent of its event streams.

Owns the table of connections, which outlives the pool, and the index of streams. It never reads or
writes a connection: the data plane hands it what to run (`HttpTasks`) and the sources of streams.
Where the upstream may be a server of HTTP+SSE, sessions at that are not its matter but that of a
second worker, which uses the same connections.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from itertools import count
from typing import Any, assert_never

from proxy_actors.actors.base import LATER
from proxy_actors.actors.connection_pool import ConnectionTable
from proxy_actors.actors.event_stream import EventSource, EventStream
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.stream_directory import CALL, STANDALONE, StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import (
    ActorStoppedError,
    FailedError,
    GatewayError,
    ProxyActorsError,
    Reason,
    RefusedError,
)
from proxy_actors.messages import http_upstream as m
from proxy_actors.messages import pool
from proxy_actors.messages.http_upstream import HttpUpstreamEffect
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.sessions import Session, SessionEnded
from proxy_actors.messages.stream import (
    BreakOff,
    CallCancelled,
    CloseStream,
    EventReceived,
    MessageKind,
    RequestAnswered,
    RequestOpened,
    StreamAbandoned,
    StreamOver,
)
from proxy_actors.messages.upstream import (
    DescribeReadiness,
    DrainUpstream,
    Readiness,
    UpstreamDrained,
)
from proxy_actors.policy.http_upstream import HttpUpstreamPolicy
from proxy_actors.policy.reconnect import Reconnect, ReconnectLimits
from proxy_actors.policy.stream_bounds import StreamOwner
from proxy_actors.world.base import World

logger = logging.getLogger("proxy_actors.http")


class HttpTasks(ABC):
    """What an upstream has done by greenlets of the data plane."""

    @abstractmethod
    def probe(self) -> bool:
        """Say whether a connection to the upstream can be had."""

    @abstractmethod
    def delete_session(self, upstream_session_id: str, version: str) -> None:
        """Send DELETE for a session of the upstream; its answer does not matter (MCP-S-6)."""

    @abstractmethod
    def renew(self, session: Session) -> m.RenewalEnded:
        """Open a session anew that the upstream has lost, or say why not."""

    def stream_failed(self) -> None:
        """Hear that a stream was given up, which counts against the endpoint. Never waits."""

    @abstractmethod
    def take_source(self, exchange_id: int) -> EventSource | None:
        """Hand over the source of an exchange whose answer has become an event stream.

        None when the exchange has given up waiting for a stream to take it.
        """

    @abstractmethod
    def failure(self, exchange_id: int, request_id: bytes, error: FailedError) -> bytes:
        """Make the JSON-RPC error that answers a call, under the error contract."""


class HttpUpstream(Supervisor):
    """The actor of one HTTP upstream.

    Args:
        slot: its stable name.
        pool: its connection pool, as a worker.
        table: the connections, which the pool shares.
        streams: where the data plane finds streams by name.
        subscribers: where streams find their subscribers.
        tasks: what the data plane does for it.
        reconnect: how its event streams are opened anew.
        sessions: the parent of sessions by HTTP+SSE, as a worker; None where there are none.
        upstream: the configured name; that of the slot where it has no endpoints by name.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        pool: Worker,
        table: ConnectionTable,
        streams: StreamDirectory,
        subscribers: Subscribers,
        tasks: HttpTasks,
        reconnect: ReconnectLimits = ReconnectLimits(),
        sessions: Worker | None = None,
        upstream: str = "",
    ) -> None:
        workers = [pool] if sessions is None else [pool, sessions]
        super().__init__(world, slot.name, workers)
        self._sessions = None if sessions is None else sessions.slot
        self._table = table
        self._streams = streams
        self._subscribers = subscribers
        self._tasks = tasks
        self._reconnect = reconnect
        self._policy = HttpUpstreamPolicy()
        self._asks: dict[int, Reply] = {}
        self._ask_ids = count(1)
        self._upstream = upstream or slot.name.rpartition("/")[2]

    def on_ready(self) -> None:
        """The pool has started: find out whether the upstream can be reached."""
        super().on_ready()
        self._apply(self._policy.begin())

    def on_receive(self, message: Any) -> Any:  # Any: an upstream's and a supervisor's vocabulary
        """Apply the message; what opens a stream is answered with its name."""
        match message:
            case m.OpenCallStream():
                return self._open_call_stream(message)
            case m.OpenStandaloneStream():
                return self._open_standalone_stream(message)
            case m.ReserveStandalone():
                return self._reserve_standalone(message)
            case m.RenewSession(session):
                return self._renew(session)
            case DescribeReadiness():
                reached = self._policy.reached
                text = "not tried yet" if reached is None else "the last connect failed"
                cause = self._policy.fault or ""
                return Readiness(reached is True, "" if reached else text, cause)
            case DrainUpstream():
                self._apply(self._policy.handle(message))
                self.drain()
            case UpstreamDrained():
                pass  # its sessions hold connections until they have ended: the pool tells it all
            case SessionEnded():
                if self._sessions is not None:
                    self._sessions.tell(message)
                self._apply(self._policy.handle(message))
            case (
                m.ClientAnswered()
                | m.ClientCancelled()
                | m.ReleaseStandalone()
                | m.UpstreamReached()
                | m.ProbeDue()
                | m.RenewalEnded()
                | pool.PoolDrained()
                | RequestOpened()
                | StreamOver()
            ):
                self._apply(self._policy.handle(message))
            case StreamAbandoned(_, why):
                logger.warning("stream_abandoned upstream=%s error=%s", self._upstream, why)
                self._tasks.stream_failed()
                self._apply(self._policy.handle(message))
            case _:
                raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")
        return None

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A stream is over, or a worker is to be restarted."""
        if self.has_worker(message.name):
            super().on_child_stopped(message)
            return
        self._apply(self._policy.handle(m.StreamStopped(message.name)))

    def on_end(self) -> None:
        """Leave no connection open and no stream listed: the next incarnation begins anew."""
        for name in self._policy.streams():
            self._streams.remove(name)
        for reply in self._asks.values():
            if not reply.settled:
                reply.fail(ActorStoppedError(f"{self.name} stopped"))
        self._asks.clear()
        self._table.close_all()

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            **super().describe(),
            "reached": self._policy.reached,
            "streams": len(self._policy.streams()),
        }

    def _open_call_stream(self, message: m.OpenCallStream) -> object:
        owner = self._owner_with_room(message)
        if owner is None:
            return LATER
        source = self._tasks.take_source(message.exchange_id)
        if source is None:
            return LATER  # nobody waits for the answer
        stream = EventStream(
            self.world,
            self._stream_name(CALL),
            self._subscribers,
            lambda error: self._tasks.failure(message.exchange_id, message.request_id, error),
            message.deadline_s,
            source,
            owner=owner,
            streams=self._streams,
            reconnect=Reconnect(self._reconnect, self.world.random),
            request_id=message.request_id,
        )
        self.start_child(stream)  # first: what it is listed in it leaves at its end
        self._policy.enter_call(stream.name, message.session_key, message.request_id)
        self._streams.enter_stream(stream.slot, owner)
        return stream.name

    def _reserve_standalone(self, message: m.ReserveStandalone) -> object:
        standing = self._policy.standing(message.session_key)
        if standing is not None:
            return standing
        if self._owner_with_room(message) is None:
            return LATER
        if self._policy.reserve_standalone(message.session_key, message.exchange_id):
            return True
        return self._refuse_second()

    def _open_standalone_stream(self, message: m.OpenStandaloneStream) -> object:
        owner = self._owner_with_room(message)
        if owner is None:
            return LATER
        if not self._policy.reserve_standalone(message.session_key, message.exchange_id):
            return self._refuse_second()
        source = self._tasks.take_source(message.exchange_id)
        if source is None:
            return LATER  # nobody waits for the answer; the reservation is about to be released
        name = self._stream_name(STANDALONE)
        stream = EventStream(
            self.world, name, self._subscribers, source=source, owner=owner,
            streams=self._streams, reconnect=Reconnect(self._reconnect, self.world.random),
            request_id=b"",
        )
        self.start_child(stream)
        self._streams.enter_stream(stream.slot, owner)
        self._apply(self._policy.enter_standalone(name, message.session_key))
        return name

    def _owner_with_room(
        self, message: m.OpenCallStream | m.ReserveStandalone | m.OpenStandaloneStream
    ) -> StreamOwner | None:
        """Return whose stream it would be; None where there is no room, and the asker is told."""
        owner = StreamOwner(message.session_key, message.owner, self._upstream)
        full = self._streams.refusal(owner)
        if full is None:
            return owner
        self._refuse(full)
        return None

    def _refuse_second(self) -> object:
        return self._refuse(RefusedError(409, "this session has a standalone stream already"))

    def _refuse(self, error: GatewayError) -> object:
        if self.asked_by is not None:
            self.asked_by.fail(error)
        return LATER

    def _stream_name(self, kind: str) -> str:
        return f"{self.name}/{kind}{self.world.token(12)}"

    def _apply(self, effects: list[HttpUpstreamEffect]) -> None:
        for effect in effects:
            match effect:
                case m.TellAnswered(stream, request_id):
                    self.children[stream].tell(RequestAnswered(request_id))
                case m.TellCancelled(stream):
                    self.children[stream].tell(CallCancelled())
                case m.TellClose(stream):
                    self.children[stream].tell(CloseStream())
                case m.DeleteUpstreamSession(session_id, version):
                    self._delete(session_id, version)
                case m.AnnounceDrained():
                    if self.parent is not None:
                        self.parent.tell(UpstreamDrained(self.name))
                case m.TellBreak(stream):
                    self.children[stream].tell(BreakOff())
                case m.TellNews(stream, data):
                    news = EventReceived(data, MessageKind.NOTIFICATION)
                    self.children[stream].tell(news)
                case m.Renew(session):
                    self._open_anew(session)
                case m.AnswerRenewal():
                    self._answer_renewal(effect)
                case m.Probe():
                    self.world.spawn("probe", self._probe)
                case m.ReportReach(True):
                    logger.info("upstream_reached upstream=%s", self._upstream)
                case m.ReportReach(why=why):
                    logger.warning("upstream_unreachable upstream=%s error=%s", self._upstream, why)
                case m.WakeForProbe(after_s, generation):
                    self.world.timer(after_s, self.ref, m.ProbeDue(generation))
                case _:
                    assert_never(effect)

    def _delete(self, session_id: str, version: str) -> None:
        self.world.spawn(
            "session delete", lambda: self._tasks.delete_session(session_id, version)
        )

    def _renew(self, session: Session) -> object:
        if self.asked_by is None:
            raise ProxyActorsError("a renewal must be asked for, not told")
        ask_id = next(self._ask_ids)
        self._asks[ask_id] = self.asked_by
        self._apply(self._policy.renew(session, ask_id))
        return LATER

    def _open_anew(self, session: Session) -> None:
        def renew() -> None:
            ended = m.RenewalEnded(session.key, None, text="the session could not be opened anew")
            try:
                ended = self._tasks.renew(session)
            finally:
                self.slot.tell(ended)

        self.world.spawn("renewal", renew)

    def _answer_renewal(self, answer: m.AnswerRenewal) -> None:
        reply = self._asks[answer.ask_id]
        if answer.session is not None:
            reply.set(answer.session)
        else:
            lost = answer.reason is Reason.SESSION_LOST
            reply.fail(FailedError(
                answer.reason, answer.text, upstream=self._upstream,
                retryable=False if lost else None,
            ))
        del self._asks[answer.ask_id]

    def _probe(self) -> None:
        """Try to connect, in a greenlet of its own."""
        self.slot.tell(m.UpstreamReached(self._tasks.probe()))

"""A stdio upstream in SHARED and POOL mode: parent of the children that serve all sessions.

Owns the children, the sessions' standalone streams, and what is one for all at a child: the log
level and the subscriptions. Calls go past it: in SHARED mode the data plane finds the child under a
stable name, in POOL mode it takes a child for each call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stream_directory import STANDALONE, StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.actors.upstream_use import UpstreamUse
from proxy_actors.errors import (
    Executed,
    FailedError,
    ProxyActorsError,
    Reason,
    RefusedError,
)
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.stdio_effects import ChildrenEffect, SharedSessionsEffect
from proxy_actors.messages.stream import (
    CloseStream,
    EventReceived,
    MessageKind,
    StreamOver,
)
from proxy_actors.messages.upstream import (
    DescribeReadiness,
    DrainUpstream,
    Readiness,
    UpstreamDrained,
)
from proxy_actors.policy.shares import Shares
from proxy_actors.policy.stdio_sessions import SharedSessionsPolicy
from proxy_actors.policy.stdio_shared import SharedPolicy
from proxy_actors.policy.stdio_shared_children import (
    SharedChildrenLimits,
    SharedChildrenPolicy,
)
from proxy_actors.policy.stream_bounds import StreamOwner
from proxy_actors.world.base import ChildCommand, World

_FOR_CHILDREN = (
    m.TakeChild, m.ReleaseChild, m.CallEnded, m.DescribeServer, m.ProcessReady, m.ProcessGone,
    m.ProcessDrained, m.RespawnDue, m.TakeSweepDue, m.IdleDue, DrainUpstream,
)  # fmt: skip
_FOR_SESSIONS = (
    m.SubmitCall, m.AbandonCall, m.OpenStandalone, m.NotificationReceived, m.OwnAnswered,
    m.ProcessReady, m.ProcessGone, m.SessionSeen, SessionEnded,
)  # fmt: skip


class StdioShared(Actor):
    """The actor of one stdio upstream in SHARED or POOL mode.

    Args:
        slot: its stable name.
        upstream: the upstream's configured name.
        command: what every child executes.
        pool: whether a child runs one call at a time.
        streams, processes: where streams and children are listed.
        failure: makes the JSON-RPC error that answers a call.
        known: keys of the sessions that it knows of, or is about to: the data plane adds whom it
            has told of, and what is not so any more is removed here.
        use: who uses it, where its processes rest without use.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        upstream: str,
        command: ChildCommand,
        pool: bool,
        streams: StreamDirectory,
        processes: Directory,
        subscribers: Subscribers,
        failure: Callable[[int, bytes, FailedError], bytes],
        known: set[str],
        limits: SharedChildrenLimits = SharedChildrenLimits(),
        use: UpstreamUse | None = None,
    ) -> None:
        super().__init__(world, slot.name)
        self._upstream = upstream
        self._command = command
        self._pool = pool
        self._streams = streams
        self._processes = processes
        self._subscribers = subscribers
        self._failure = failure
        self._known = known
        self._use = UpstreamUse() if use is None else use
        self._streams_seen = 0, 0
        self._describers_max = limits.waiters_max
        self._describing = Shares(3 * limits.waiters_max)
        self._asks: dict[int, Reply] = {}
        self._listed: set[str] = set()
        self._describers: list[Reply] = []
        self._session_streams: dict[str, Slot] = {}
        self._session_of: dict[str, str] = {}
        self._shared = Slot(shared_name(slot))
        self._shared_child = ""
        self._children = SharedChildrenPolicy(limits, self._name, world.random)
        self._sessions = SharedSessionsPolicy(limits.children)

    def on_start(self) -> None:
        """Start the children."""
        self._processes.enter(self._shared)
        self._use.used_s, self._use.rests = self.world.now_s(), False
        self._apply(self._children.begin())

    def on_receive(self, message: Any) -> Any:  # Any: the vocabularies of two policies
        """Apply the message to the policy that it is for."""
        now_s = self.world.now_s()
        if isinstance(message, DescribeReadiness):
            return Readiness(self._children.serves, self._children.text)
        if isinstance(message, m.DescribeStart):
            return self._children.described()
        if isinstance(message, StreamOver):
            return None  # told by a stream that is ended from here
        if isinstance(message, m.IdleDue):
            message = m.IdleDue(message.generation, self._idle_s(now_s))
        self._note_asker(message)
        if isinstance(message, m.SendMessage):
            self._send_to_all(message)
            return LATER
        if isinstance(message, m.OpenStandalone) and self._refuses_stream(message):
            return LATER
        if not isinstance(message, _FOR_CHILDREN + _FOR_SESSIONS):
            raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")
        if isinstance(message, m.ProcessGone):
            self._unname(message.child)
            if message.cut:
                self._processes.on_cut()
        if isinstance(message, _FOR_CHILDREN):
            self._apply(self._children.handle(message, now_s))
            self._use.rests = self._children.rests
        if isinstance(message, _FOR_SESSIONS):
            self._apply_sessions(self._sessions.handle(message))
        if isinstance(message, (m.SessionSeen, SessionEnded)):
            self._forget_ended(message.session.key)
        return LATER

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A child's actor or a standalone stream has ended."""
        self._unname(message.name)
        self._unlist(message.name)
        key = self._session_of.pop(message.name, "")
        slot = self._session_streams.get(key)
        if slot is not None and slot.name == message.name:
            del self._session_streams[key]
            self._sessions.stream_ended(key)

    def on_end(self) -> None:
        """Leave no asker waiting, no child listed, and no session known."""
        self._known.clear()  # here: the next incarnation has mail before it has started
        text = "the upstream is being restarted"
        error = self._failure_of(Reason.UPSTREAM_UNAVAILABLE, text, 1.0)
        for reply in (*self._asks.values(), *self._describers):
            if not reply.settled:  # the ask that was in hand at a crash has its answer
                reply.fail(error)
        self._shared.ref = None
        for child in list(self._listed):
            self._unlist(child)

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {
            "ready": self._children.serves,
            "rests": self._children.rests,
            "sessions": self._sessions.sessions,
            **self._children.counts.figures(),
        }

    def _forget_ended(self, session_key: str) -> None:
        if not self._sessions.knows(session_key):
            self._known.discard(session_key)

    def _note_asker(self, message: Any) -> None:  # Any: see on_receive
        asked = self.asked_by
        match message:
            case m.TakeChild(id) | m.SubmitCall(id) if asked is not None:
                self._asks[id] = asked
            case m.DescribeServer(owner) if asked is not None:
                if self._describing.has_room(owner):
                    self._describing.enter(owner)
                    self._describers.append(asked)
                else:
                    text = "too many wait for the server process to start"
                    asked.fail(FailedError(Reason.OVERLOADED, text, upstream=self._upstream))
            case m.ReleaseChild(id) | m.AbandonCall(id):
                self._asks.pop(id, None)

    def _forget_describers(self) -> None:
        self._describers.clear()
        self._describing = Shares(3 * self._describers_max)

    def _send_to_all(self, message: m.SendMessage) -> None:
        for name in list(self.children):
            if name not in self._session_of:
                self.children[name].tell(message)

    def _apply(self, effects: list[ChildrenEffect]) -> None:
        for effect in effects:
            match effect:
                case e.StartProcess(child):
                    self._start_process(child)
                case e.StopProcess(child):
                    self._unname(child)
                    self._tell_child(child, m.RestProcess())
                case e.NameChild(child):
                    self._name_child(child)
                case e.GiveChild(exchange_id, child):
                    self._give(exchange_id, child)
                case e.RefuseChild(exchange_id, reason, text, retry_after_s):
                    self._fail(exchange_id, reason, text, retry_after_s)
                case e.AnswerDescribed(described):
                    for reply in self._describers:
                        reply.set(described)
                    self._forget_describers()
                case e.FailDescribed(reason, text, retry_after_s):
                    error = self._failure_of(reason, text, retry_after_s)
                    for reply in self._describers:
                        reply.fail(error)
                    self._forget_describers()
                case e.DrainChild(child):
                    self._tell_child(child, m.DrainProcess())
                case e.WakeRespawn(after_s, generation):
                    self.world.timer(after_s, self.ref, m.RespawnDue(generation))
                case e.WakeIdle(after_s, generation):
                    self.world.timer(after_s, self.ref, m.IdleDue(generation))
                case e.WakeTakeSweep(after_s, generation):
                    self.world.timer(after_s, self.ref, m.TakeSweepDue(generation))
                case e.ChildrenDrained():
                    for slot in self._session_streams.values():
                        slot.tell(CloseStream())  # they have no end of their own
                    if self.parent is not None:
                        self.parent.tell(UpstreamDrained(self.name))
                case e.LoseSession():
                    raise ProxyActorsError("an effect of SESSION mode in a shared mode")
                case _:
                    assert_never(effect)

    def _apply_sessions(self, effects: list[SharedSessionsEffect]) -> None:
        for effect in effects:
            match effect:
                case e.AnswerOwn(call_id, data):
                    if call_id in self._asks:
                        self._asks[call_id].set(m.CallAnswered(data))
                        del self._asks[call_id]  # last: who crashes answers those that are left
                case e.FailOwn(call_id, reason, text, executed):
                    self._fail(call_id, reason, text, executed=executed)
                case e.AskChild(child, own_id, method, params):
                    if not self._tell_child(child, m.SubmitOwn(own_id, method, params)):
                        self.ref.tell(m.OwnAnswered(own_id))
                case e.StartSessionStream(session_key, owner):
                    self._start_stream(session_key, owner)
                case e.JoinSessionStream(session_key):
                    if self.asked_by is not None:
                        name = self._session_streams[session_key].name
                        self.asked_by.set(m.CallStreaming(name))
                case e.RefuseSessionStream():
                    if self.asked_by is not None:
                        self.asked_by.fail(RefusedError(404, "there is no such session"))
                case e.EmitToSessionStream(session_key, data):
                    event = EventReceived(data, MessageKind.NOTIFICATION)
                    self._session_streams[session_key].tell(event)
                case e.CloseSessionStream(session_key):
                    self._session_streams[session_key].tell(CloseStream())
                case e.DropFrame():
                    self.undelivered += 1
                case _:
                    assert_never(effect)

    def _give(self, exchange_id: int, child: str) -> None:
        reply = self._asks.get(exchange_id)
        if reply is None or reply.settled:
            self.ref.tell(m.ReleaseChild(exchange_id))
        else:
            reply.set(child)
        self._asks.pop(exchange_id, None)

    def _fail(
        self,
        call_id: int,
        reason: Reason,
        text: str,
        retry_after_s: float | None = None,
        executed: Executed = Executed.NO,
    ) -> None:
        if call_id in self._asks:
            self._asks[call_id].fail(
                FailedError(
                    reason, text, executed=executed, upstream=self._upstream,
                    retry_after_s=retry_after_s,
                )
            )
            del self._asks[call_id]

    def _failure_of(self, reason: Reason, text: str, retry_after_s: float) -> FailedError:
        return FailedError(reason, text, upstream=self._upstream, retry_after_s=retry_after_s)

    def _idle_s(self, now_s: float) -> float:
        """Return for how long, at least, nobody has used them; a stream that is open uses them.

        When a stream has ended is not known: one that was seen, or opened, since the last look may
        have done so just now.
        """
        books = self._streams.books
        streams = books.of_upstream(self._upstream), books.opened[self._upstream]
        if self._use.calls or streams[0] or streams != self._streams_seen:
            self._use.used_s = now_s
        self._streams_seen = streams
        return now_s - self._use.used_s

    def _start_process(self, name: str) -> None:
        process = StdioProcess(
            self.world,
            name,
            self._command,
            SharedPolicy(announces_ends=self._pool),
            self._upstream,
            self._streams,
            self._subscribers,
            self._failure,
        )
        self._listed.add(name)  # first: what is listed and not known to be is so for ever
        self._processes.enter(process.slot)
        self.start_child(process)

    def _name_child(self, name: str) -> None:
        if not self._pool:
            self._shared.ref, self._shared_child = self.children.get(name), name

    def _unname(self, child: str) -> None:
        """Nobody bears the stable name between two children."""
        if child == self._shared_child:
            self._shared.ref = None

    def _unlist(self, child: str) -> None:
        self._listed.discard(child)
        self._processes.remove(child)
        self._streams.remove(child)

    def _refuses_stream(self, opening: m.OpenStandalone) -> bool:
        """Refuse a standalone stream for which there is no room; whether it was so."""
        if opening.session_key in self._session_streams:
            return False
        owner = StreamOwner(opening.session_key, opening.owner, self._upstream)
        full = self._streams.refusal(owner)
        if full is not None and self.asked_by is not None:
            self.asked_by.fail(full)
        return full is not None

    def _start_stream(self, session_key: str, owner: str) -> None:
        name = f"{self.name}/{STANDALONE}{self.world.token(12)}"
        whose = StreamOwner(session_key, owner, self._upstream)
        stream = EventStream(
            self.world, name, self._subscribers, owner=whose, streams=self._streams,
            request_id=b"",
        )
        self.start_child(stream)  # first: what it is listed in it leaves at its end
        self._streams.enter_stream(stream.slot, whose)
        self._listed.add(name)
        self._session_streams[session_key] = stream.slot
        self._session_of[name] = session_key
        if self.asked_by is not None:
            self.asked_by.set(m.CallStreaming(name))

    def _tell_child(self, name: str, message: Any) -> bool:  # Any: a child's vocabulary
        child = self.children.get(name)
        return child is not None and child.tell(message)

    def _name(self, serial: int) -> str:
        return f"{self.name}/child-{self.incarnation}-{serial}"


def shared_name(slot: Slot) -> str:
    """Return the stable name under which the one child of SHARED mode is found."""
    return f"{slot.name}/shared"

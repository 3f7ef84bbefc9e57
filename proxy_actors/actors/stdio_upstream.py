"""A stdio upstream in SESSION mode: parent of a child process for each session.

Owns which child serves whom. The data plane takes a child for a handshake, binds it to the session
that the handshake opens, and talks to that child's actor by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import FailedError, ProxyActorsError
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.lifecycle import ChildStopped, Stop
from proxy_actors.messages.sessions import EndReason, EndSession
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DescribeReadiness, Readiness, UpstreamDrained
from proxy_actors.policy.stdio_children import ChildrenLimits, ChildrenMessage, ChildrenPolicy
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.world.base import ChildCommand, Mailbox, World


class StdioUpstream(Actor):
    """The actor of one stdio upstream in SESSION mode.

    Args:
        slot: its stable name.
        upstream: the upstream's configured name.
        command: what every child executes.
        registry: hears of sessions that are lost with their child.
        streams, processes: where streams and children are listed.
        failure: makes the JSON-RPC error that answers a call.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        upstream: str,
        command: ChildCommand,
        registry: Mailbox,
        streams: StreamDirectory,
        processes: Directory,
        subscribers: Subscribers,
        failure: Callable[[int, bytes, FailedError], bytes],
        limits: ChildrenLimits = ChildrenLimits(),
    ) -> None:
        super().__init__(world, slot.name)
        self._upstream = upstream
        self._command = command
        self._registry = registry
        self._streams = streams
        self._processes = processes
        self._subscribers = subscribers
        self._failure = failure
        self._asks: dict[int, Reply] = {}
        self._listed: set[str] = set()
        self._policy = ChildrenPolicy(limits, self._name, world.random)

    def on_start(self) -> None:
        """Start the first spare."""
        self._apply(self._policy.begin())

    def on_receive(self, message: ChildrenMessage | DescribeReadiness) -> Any:  # Any: see LATER
        """Apply the message; TakeChild is answered in its turn."""
        if isinstance(message, DescribeReadiness):
            return Readiness(self._policy.ready, self._policy.text)
        if isinstance(message, m.TakeChild) and self.asked_by is not None:
            self._asks[message.exchange_id] = self.asked_by
        self._apply(self._policy.handle(message, self.world.now_s()))
        return LATER

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A child's actor has ended; its process was reported gone before."""
        self._processes.remove(message.name)
        self._listed.discard(message.name)

    def on_end(self) -> None:
        """Leave no child listed: so a session's next call finds out that its child has gone."""
        for name in self._listed:
            self._processes.remove(name)

    def describe(self) -> dict[str, object]:
        """State for operators."""
        policy = self._policy
        return {
            "children": policy.children, "ready": policy.ready, **policy.counts.figures()
        }

    def _apply(self, effects: list[ChildrenEffect]) -> None:
        for effect in effects:
            match effect:
                case e.StartProcess(child):
                    self._start_process(child)
                case e.StopProcess(child):
                    self._tell_child(child, Stop())
                case e.GiveChild(exchange_id, child):
                    self._asks.pop(exchange_id).set(child)
                case e.RefuseChild(exchange_id, reason, text, retry_after_s):
                    error = FailedError(
                        reason, text, upstream=self._upstream, retry_after_s=retry_after_s
                    )
                    self._asks.pop(exchange_id).fail(error)
                case e.LoseSession(session_key):
                    self._registry.tell(EndSession(session_key, EndReason.LOST))
                case e.DrainChild(child):
                    self._tell_child(child, m.DrainProcess())
                case e.WakeRespawn(after_s, generation):
                    self.world.timer(after_s, self.ref, m.RespawnDue(generation))
                case e.ChildrenDrained():
                    if self.parent is not None:
                        self.parent.tell(UpstreamDrained(self.name))
                case (
                    e.NameChild() | e.WakeTakeSweep() | e.AnswerDescribed() | e.FailDescribed()
                ):
                    raise ProxyActorsError("an effect of the shared modes in SESSION mode")
                case _:
                    assert_never(effect)

    def _start_process(self, name: str) -> None:
        process = StdioProcess(
            self.world,
            name,
            self._command,
            ExclusivePolicy(),
            self._upstream,
            self._streams,
            self._subscribers,
            self._failure,
        )
        self._processes.enter(process.slot)
        self._listed.add(name)
        self.start_child(process)

    def _tell_child(self, name: str, message: Any) -> None:  # Any: a child's vocabulary
        child = self.children.get(name)
        if child is not None:
            child.tell(message)

    def _name(self, serial: int) -> str:
        return f"{self.name}/child-{self.incarnation}-{serial}"

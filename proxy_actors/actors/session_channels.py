"""The channels of an upstream at which each session has one of its own: their parent.

Owns which channel serves whom. The data plane takes one for a handshake, binds it to the session
that the handshake opens, and talks to that channel's actor by its name. What the channels are made
of is the matter of who makes them: child processes, or sessions at a server of HTTP+SSE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.channel import Channel
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.errors import FailedError, ProxyActorsError
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.sessions import EndReason, EndSession
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DescribeReadiness, Readiness, UpstreamDrained
from proxy_actors.policy.stdio_children import ChildrenLimits, ChildrenMessage, ChildrenPolicy
from proxy_actors.world.base import Mailbox, World

_Mail = ChildrenMessage | DescribeReadiness | m.DescribeStart
MakeChannel = Callable[[str], Channel]
"""Makes the channel of this name."""


class SessionChannels(Actor):
    """The parent of the channels.

    Args:
        slot: its stable name.
        upstream: the upstream's configured name.
        make: makes a channel.
        registry: hears of sessions that are lost with their channel.
        channels: where they are listed.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        upstream: str,
        make: MakeChannel,
        registry: Mailbox,
        channels: Directory,
        limits: ChildrenLimits = ChildrenLimits(),
    ) -> None:
        super().__init__(world, slot.name)
        self._upstream = upstream
        self._make = make
        self._registry = registry
        self._channels = channels
        self._asks: dict[int, Reply] = {}
        self._listed: set[str] = set()
        self._policy = ChildrenPolicy(limits, self._name, world.random)

    def on_start(self) -> None:
        """Start the first spare, where one is kept."""
        self._apply(self._policy.begin())

    def on_receive(self, message: _Mail) -> Any:  # Any: see LATER
        """Apply the message; TakeChild is answered in its turn."""
        if isinstance(message, DescribeReadiness):
            return Readiness(self._policy.ready, self._policy.text)
        if isinstance(message, m.DescribeStart):
            return self._policy.described(self.world.now_s())
        if isinstance(message, m.TakeChild) and self.asked_by is not None:
            self._asks[message.exchange_id] = self.asked_by
        if isinstance(message, m.ProcessGone) and message.cut:
            self._channels.on_cut()
        self._apply(self._policy.handle(message, self.world.now_s()))
        return LATER

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A channel's actor has ended; that it is gone was reported before."""
        self._channels.remove(message.name)
        self._listed.discard(message.name)

    def on_end(self) -> None:
        """Leave no channel listed: so a session's next call finds out that its own has gone."""
        for name in self._listed:
            self._channels.remove(name)

    def describe(self) -> dict[str, object]:
        """State for operators."""
        policy = self._policy
        return {
            "children": policy.children, "ready": policy.ready, "rests": policy.rests,
            **policy.counts.figures(),
        }

    def _apply(self, effects: list[ChildrenEffect]) -> None:
        for effect in effects:
            match effect:
                case e.StartProcess(child):
                    self._start_channel(child)
                case e.StopProcess(child):
                    self._tell_child(child, m.EndChannel())
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
                case e.WakeIdle(after_s, generation):
                    self.world.timer(after_s, self.ref, m.IdleDue(generation))
                case e.ChildrenDrained():
                    if self.parent is not None:
                        self.parent.tell(UpstreamDrained(self.name))
                case (
                    e.NameChild() | e.WakeTakeSweep() | e.AnswerDescribed() | e.FailDescribed()
                ):
                    raise ProxyActorsError("an effect of the shared modes in SESSION mode")
                case _:
                    assert_never(effect)

    def _start_channel(self, name: str) -> None:
        channel = self._make(name)
        self._listed.add(name)  # first: what is listed and not known to be is so for ever
        self._channels.enter(channel.slot)
        self.start_child(channel)

    def _tell_child(self, name: str, message: Any) -> None:  # Any: a child's vocabulary
        child = self.children.get(name)
        if child is not None:
            child.tell(message)

    def _name(self, serial: int) -> str:
        # No other channel has ever had the name: who is bound to one that ended must not find it.
        return f"{self.name}/child-{self.slot.starts}-{serial}"

"""The parent of all streams of the HTTP+SSE transport: the shell of `policy/legacy_streams.py`.

Lists each stream where the data plane finds it, and ends it when the registry says that its session
has ended. A stream that crashes is not started again: its client opens another.
"""

from __future__ import annotations

from typing import assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.legacy_stream import LegacyStream, LegacyTasks, refused
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.errors import ProxyActorsError
from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyStreamsEffect, LegacyStreamsMessage
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.messages.stream import CloseStream
from proxy_actors.policy.legacy_streams import LegacyLimits, LegacyStreamsPolicy
from proxy_actors.world.base import Mailbox, World

# THR-T5 asks for 128 bits at least.
ID_RANDOM_BYTES = 24


class LegacyStreams(Actor):
    """The actor.

    Args:
        slot: its stable name, `PARENT`.
        registry: hears of sessions that end with their streams.
        streams: where streams are listed.
        subscribers: where their readers are found.
        tasks: what the data plane does for them.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        limits: LegacyLimits,
        registry: Mailbox,
        streams: Directory,
        subscribers: Subscribers,
        tasks: LegacyTasks,
    ) -> None:
        super().__init__(world, slot.name)
        self._registry = registry
        self._streams = streams
        self._subscribers = subscribers
        self._tasks = tasks
        self._policy = LegacyStreamsPolicy(limits, lambda: world.token(ID_RANDOM_BYTES))

    def on_receive(self, message: LegacyStreamsMessage) -> object:
        """Apply the message; what opens a stream is answered with it."""
        for effect in self._policy.handle(message):
            self._perform(effect, message)
        return LATER

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A stream is over."""
        self._streams.remove(message.name)
        self._policy.handle(m.LegacyStreamStopped(message.name))

    def on_end(self) -> None:
        """Leave no stream listed: the next incarnation begins anew."""
        for name in self._policy.streams():
            self._streams.remove(name)

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"streams": len(self._policy.streams())}

    def _perform(self, effect: LegacyStreamsEffect, message: LegacyStreamsMessage) -> None:
        match effect:
            case m.StartStream(stream, id):
                if not isinstance(message, m.OpenLegacyStream):
                    raise ProxyActorsError("a stream starts when a client asks for it")
                self._start_stream(stream, message)
                if self.asked_by is not None:
                    self.asked_by.set(m.LegacyStreamOpened(stream, id))
            case m.RefuseLegacy(refusal):
                if self.asked_by is not None:
                    self.asked_by.fail(refused(refusal))
            case m.TellEnd(stream):
                self.children[stream].tell(CloseStream())
            case m.TellDrain(stream):
                self.children[stream].tell(m.DrainLegacy())
            case _:
                assert_never(effect)

    def _start_stream(self, name: str, opening: m.OpenLegacyStream) -> None:
        stream = LegacyStream(
            self.world, name, opening, self._registry, self._subscribers, self._tasks
        )
        self._streams.enter(stream.slot)
        self.start_child(stream)

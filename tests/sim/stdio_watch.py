"""Plants crashes at the boundaries of messages and effects, and notes what is reached.

For as long as the context lasts, the actors of stdio upstreams, streams and sessions may crash
before a message is handled, between two effects of it, and after it; the scenario decides when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from proxy_actors.actors.base import Actor
from proxy_actors.actors.channel import Channel
from proxy_actors.actors.event_stream import EventStream
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.session_registry import SessionRegistry
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stdio_shared import StdioShared
from proxy_actors.actors.stdio_upstream import StdioUpstream
from proxy_actors.messages.lifecycle import ChildStopped

FRAGILE = (EventStream, SessionRegistry, StdioProcess, StdioShared, StdioUpstream)


class Watcher(Protocol):
    """Who watches."""

    def started(self, actor: Actor) -> None:
        """An actor starts."""

    def reached(self, actor: Actor, what: Any) -> None:
        """It is about to handle a message or to carry out an effect; may raise to crash it."""

    def passed(self, actor: Actor) -> None:
        """It has handled a message; may raise to crash it."""


@contextmanager
def watched_actors(watcher: Watcher) -> Iterator[None]:
    """Watch."""

    def start(original: Callable[..., Any]) -> Callable[..., Any]:
        def started(actor: Actor) -> None:
            watcher.started(actor)
            original(actor)

        return started

    def dispatch(original: Callable[..., Any]) -> Callable[..., Any]:
        def dispatched(actor: Actor, message: Any) -> Any:
            if not isinstance(actor, FRAGILE):
                return original(actor, message)
            if not isinstance(message, ChildStopped):  # it is noted before anything can happen
                watcher.reached(actor, message)
            answer = original(actor, message)
            watcher.passed(actor)
            return answer

        return dispatched

    def apply(original: Callable[..., Any]) -> Callable[..., Any]:
        def each(actor: Actor, effects: Iterable[Any]) -> Iterator[Any]:
            for effect in effects:
                watcher.reached(actor, effect)
                yield effect

        return lambda actor, effects: original(actor, each(actor, effects))

    def perform(original: Callable[..., Any]) -> Callable[..., Any]:
        def performed(actor: Actor, effect: Any) -> None:
            watcher.reached(actor, effect)
            original(actor, effect)

        return performed

    with ExitStack() as stack:
        for owner, name, wrap in (
            (Actor, "_start", start),
            (Actor, "_dispatch", dispatch),
            (Channel, "_apply", apply),
            (SessionChannels, "_apply", apply),
            (StdioShared, "_apply", apply),
            (StdioShared, "_apply_sessions", apply),
            (EventStream, "_perform", perform),
            (SessionRegistry, "_perform", perform),
        ):
            original = vars(owner)[name]
            setattr(owner, name, wrap(original))
            stack.callback(setattr, owner, name, original)
        yield

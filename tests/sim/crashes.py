"""Crashes of actors at the boundaries of their messages: just before a mail is handled, or after.

After is the worse of the two: the mail has had its effects, and its asker is told of a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet

from proxy_actors.actors.base import Actor
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.world.sim_world import SimWorld


class PlantedError(Exception):
    """A crash on purpose."""


class PlantedTimeout(BaseException):
    """The same; like gevent.Timeout no Exception."""


# Whatever it is, it has one fate (PYK-P1, P2; FLT-P17).
ERRORS: tuple[type[BaseException], ...] = (
    PlantedError, PlantedTimeout, MemoryError, RecursionError, greenlet.GreenletExit
)  # fmt: skip


@contextmanager
def planted_crashes(world: SimWorld, likely: Callable[[Actor], float]) -> Iterator[None]:
    """Crash actors while the context lasts, with the chance that `likely` gives for each mail."""
    dispatch: Any = Actor._dispatch

    def crash(actor: Actor) -> None:
        if world.draw(likely(actor) / 2, f"crashed_{type(actor).__name__}"):
            raise world.chance.choice(ERRORS)

    def crashing(actor: Actor, message: Any) -> Any:
        if not isinstance(message, ChildStopped):  # it is noted before anything else can happen
            crash(actor)
        answer = dispatch(actor, message)
        crash(actor)
        return answer

    setattr(Actor, "_dispatch", crashing)
    try:
        yield
    finally:
        setattr(Actor, "_dispatch", dispatch)

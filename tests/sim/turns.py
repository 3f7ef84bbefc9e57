"""The rule that a turn never switches greenlets, watched over.

Inline turns run on the stack of whoever asks; their order and their being one at a time rest on
this rule. While it is watched, the simulated world refuses to park in a turn, and a turn within a
turn is noted as an error of the world.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from proxy_actors.actors.base import Actor
from proxy_actors.actors.inbox import Mail
from proxy_actors.world.sim_world import SimWorld


@contextmanager
def watched_turns() -> Iterator[None]:
    """Count turns in `SimWorld.in_turn` while the context lasts."""
    turn: Any = Actor._turn

    def counted(actor: Actor, mail: Mail) -> None:
        world = cast(SimWorld, actor.world)
        if world.in_turn:
            world.errors.append(AssertionError(f"{actor.name} has a turn within a turn"))
        world.in_turn += 1
        try:
            turn(actor, mail)
        finally:
            world.in_turn -= 1

    setattr(Actor, "_turn", counted)
    try:
        yield
    finally:
        setattr(Actor, "_turn", turn)

"""The rule that an ask has one answer, watched over.

An actor answers an ask once; only the crash of a turn may come on top, for an asker that has its
answer already. Whatever happens, the first answer is the one that the asker gets (PYK-P10). Nobody
is left waiting for an actor that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from proxy_actors.actors.refs import Reply
from proxy_actors.errors import ActorStoppedError, DeadlineError
from proxy_actors.world.base import World
from proxy_actors.world.sim_world import SimWorld


@contextmanager
def watched_replies() -> Iterator[None]:
    """Note second answers as errors of the world while the context lasts."""
    kept = {name: vars(Reply)[name] for name in ("set", "fail", "wait")}

    def settle(reply: Any, answer: object, name: str) -> None:
        if not reply.settled:
            reply.first_answer = answer
        elif hasattr(reply, "first_answer") and not isinstance(answer, ActorStoppedError):
            note(reply, f"{reply.first_answer} and then {answer}")
        kept[name](reply, answer)

    def wait(reply: Any, world: World, deadline_s: float) -> Any:
        try:
            answer = kept["wait"](reply, world, deadline_s)
        except ActorStoppedError as error:
            if reply.first_answer is not error:
                note(reply, f"{reply.first_answer}, but the asker got {error!r}")
            raise
        except DeadlineError:
            if reply._actor.actor_stopped.is_set() and not hasattr(reply, "first_answer"):
                note(reply, "nothing before it ended")
            raise
        if answer is not reply.first_answer:
            note(reply, f"{reply.first_answer}, but the asker got {answer}")
        return answer

    setattr(Reply, "set", lambda reply, value=None: settle(reply, value, "set"))
    setattr(Reply, "fail", lambda reply, error: settle(reply, error, "fail"))
    setattr(Reply, "wait", wait)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(Reply, name, function)


def note(reply: Reply, text: str) -> None:
    """Note a broken rule where the end of the run looks for it."""
    world = cast(SimWorld, reply._actor.world)
    world.errors.append(AssertionError(f"{reply._actor.name} answered {text}"))

"""A simulated world with one actor of its own mind, for tests of the loop of all actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Ref
from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import ChildStopped
from proxy_actors.world.sim_waits import SimTask
from proxy_actors.world.base import World
from proxy_actors.world.sim_world import Faults, SimWorld


class Act(Message, frozen=True):
    """Have the actor do this in its turn and answer with the result."""

    run: Callable[[Any], Any] = lambda actor: None


class FastAct(Act, frozen=True):
    """The same in the fast lane."""

    fast: ClassVar[bool] = True


class GivesBack(Act, frozen=True):
    """The same, and never refused."""

    always_accepted: ClassVar[bool] = True


class Kept(Act, frozen=True):
    """The same, and not lost with an incarnation."""

    outlives_crash: ClassVar[bool] = True


def failing(error: BaseException) -> Act:
    """Have the actor raise this."""

    def run(actor: Any) -> None:
        raise error

    return Act(run)


class Puppet(Actor):
    """Does what its mail says and notes what its hooks see."""

    def __init__(self, world: World, name: str = "puppet", mail_max: int = 1000) -> None:
        self.mail_max = mail_max
        super().__init__(world, name)
        self.notes: list[Any] = []
        self.starting: Callable[[], None] = lambda: None

    def on_start(self) -> None:
        self.starting()
        self.notes.append("started")

    def on_receive(self, message: Act) -> Any:
        return message.run(self)

    def on_stop(self) -> None:
        self.notes.append("stopped")

    def on_crash(self) -> None:
        self.notes.append("crashed")

    def on_undelivered(self, message: Act) -> None:
        self.notes.append(message)


class Ear:
    """A parent that only listens."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def tell(self, message: Any) -> bool:
        self.heard.append(message)
        return True

    def last_words(self) -> list[tuple[str, str]]:
        return [(x.name, x.reason.value) for x in self.heard if isinstance(x, ChildStopped)]


class Stage(SimWorld):
    """The world. `inline` decides about inline turns; None leaves it to chance."""

    def __init__(self, seed: int = 1, inline: bool | None = None) -> None:
        super().__init__(seed, Faults())
        self.inline = inline
        self.ear = Ear()

    def may_inline(self) -> bool:
        return super().may_inline() if self.inline is None else self.inline

    def begin(self, actor: Actor) -> Ref:
        """Start an actor under the ear and let it run."""
        actor.parent = self.ear
        actor._start_actor_loop()
        self.run(1.0)
        return actor.ref

    def puppet(self, mail_max: int = 1000) -> Puppet:
        puppet = Puppet(self, mail_max=mail_max)
        self.begin(puppet)
        return puppet

    def do(self, function: Callable[[], Any], seconds: float = 600.0) -> Any:
        """Run a function in a greenlet; return what it returns or raise what it raises."""
        outcome = self.start(function)
        assert self.run_until(lambda: bool(outcome.ended), seconds), "it never ended"
        return outcome.result()

    def start(self, function: Callable[[], Any]) -> Outcome:
        """Run a function in a greenlet, later."""
        outcome = Outcome()
        outcome.task = self.spawn("test", lambda: outcome.run(function))
        return outcome


class Outcome:
    """What became of a function."""

    task: SimTask

    def __init__(self) -> None:
        self.ended = False
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

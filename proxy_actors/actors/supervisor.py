"""The shell of supervision: starts, restarts and gives up the children it was specified with.

Owns the stable names of its children and nothing of their state, but that they are to drain: one
that is started anew would not know. Subclasses with a domain of their own pass mail on with
`super().on_receive`. Its parent hears SupervisorReady when every child has started, and
ChildStopped(crashed) when the restart budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import ConfigurationError, ProxyActorsError
from proxy_actors.messages.base import Message
from proxy_actors.messages.lifecycle import ChildStarted, ChildStopped, Stop, StopReason
from proxy_actors.messages.supervision import (
    Begin,
    Escalate,
    Ready,
    Restart,
    StartChild,
    StopChild,
    Strategy,
    SupervisionMessage,
    SupervisorReady,
)
from proxy_actors.policy.supervision import Budget, ChildSpec, SupervisionPolicy
from proxy_actors.world.base import World


class EscalatedError(ProxyActorsError):
    """A supervisor gave up a child; restarting it does not help."""


class Worker:
    """A child to be: its stable name, how to make an incarnation of it, when to restart it.

    `drain` is what it is told in a drain, once for each incarnation; None when it has no part.
    """

    def __init__(
        self,
        slot: Slot,
        make: Callable[[], Actor],
        restart: Restart = Restart.PERMANENT,
        drain: Message | None = None,
    ) -> None:
        self.slot = slot
        self.make = make
        self.restart = restart
        self.drain = drain


class Supervisor(Actor):
    """Supervises `workers`, started in this order and stopped in reverse."""

    def __init__(
        self,
        world: World,
        name: str,
        workers: Sequence[Worker],
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        budget: Budget = Budget(),
    ) -> None:
        super().__init__(world, name)
        self._workers = {worker.slot.name: worker for worker in workers}
        specs = [ChildSpec(worker.slot.name, worker.restart) for worker in workers]
        self._supervision = SupervisionPolicy(specs, strategy, budget)
        self._draining = False

    def on_start(self) -> None:
        """Begin with the first child; the others follow as each has started."""
        self._supervise(Begin())

    def on_receive(self, message: Any) -> Any:  # Any: subclasses have vocabularies of their own
        """Refuse: a plain supervisor has no mail but its children's."""
        if not isinstance(message, SupervisorReady):
            raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")

    def on_ready(self) -> None:
        """Every worker has started for the first time: the parent is told."""
        if self.parent is not None:
            self.parent.tell(SupervisorReady(self.name))

    def on_child_started(self, message: ChildStarted) -> None:
        """A child has started: start the next."""
        self._supervise(message)

    def on_child_stopped(self, message: ChildStopped) -> None:
        """A child has ended: restart it, its siblings too, or give up."""
        self._supervise(message)

    def has_worker(self, name: str) -> bool:
        """Whether a child of this name is a worker, and not one that was started dynamically."""
        return name in self._workers

    def drain(self) -> None:
        """Have the workers drain, those that are yet to be started as well. Idempotent."""
        if not self._draining:
            self._draining = True
            for worker in self._workers.values():
                _tell_to_drain(worker)

    def stop_order(self) -> list[list[str]]:
        """Stop what was started dynamically first, then the workers, last started first."""
        dynamic = [name for name in self.children if name not in self._workers]
        return [dynamic, *([name] for name in reversed(self._workers))]

    def describe(self) -> dict[str, object]:
        """State for operators."""
        return {"restarts": self._supervision.restarts()}

    def _supervise(self, message: SupervisionMessage) -> None:
        for effect in self._supervision.handle(message, self.world.now_s()):
            match effect:
                case StartChild(child, incarnation):
                    worker = self._workers[child]
                    self.start_child(worker.make(), worker.slot, incarnation)
                    if self._draining:
                        _tell_to_drain(worker)
                case StopChild(child):
                    self.children[child].tell(Stop())
                case Ready():
                    self.on_ready()
                case Escalate(child, error):
                    if isinstance(message, ChildStopped) and (
                        message.reason is StopReason.CONFIGURATION
                    ):
                        raise ConfigurationError(error)
                    raise EscalatedError(f"{child} was given up: {error}")
                case _:
                    assert_never(effect)


def _tell_to_drain(worker: Worker) -> None:
    if worker.drain is not None:
        worker.slot.tell(worker.drain)

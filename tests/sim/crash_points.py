"""Crashes of actors at every line that a turn of theirs comes to.

A run without a crash tells at which lines of actors and policies its turns have been, and when for
the first time. Then it is run again for each of these, as a seed decides it to the last step, and
an error is raised at that very line: inside a handler, between two effects, in the middle of a
change of books that outlive the actor. RELIABILITY 6.5, P15 and P17.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import proxy_actors
from proxy_actors.actors.base import Actor
from proxy_actors.messages.lifecycle import ChildStopped
from tests.sim.bounds import other_bounds
from tests.sim.crashes import ERRORS

PACKAGE = Path(proxy_actors.__file__).parent
# The loop and the boxes are what a crash is handled by; the simulated world is the kernel's part.
_MACHINERY = ("actors/base.py", "actors/inbox.py", "actors/refs.py", "actors/nap.py")
AFTER = 1_000_000
_PLANTED = "<defect"
_ROOMS = ("actors/", "policy/", "gateway/", "transports/", _PLANTED)


@dataclass(frozen=True)
class Point:
    """Where a turn has been: at its nth line, as a seed's run first came to it.

    `step` is 0 just before a message is handled, and AFTER when it has been: what it was to do is
    done, and its asker is told of a crash.
    """

    seed: int
    turn: int
    step: int
    actor: str
    message: str
    place: str

    @property
    def error(self) -> type[BaseException]:
        """What is raised there: one of all kinds."""
        return ERRORS[(self.turn + self.step) % len(ERRORS)]

    def __str__(self) -> str:
        return f"{self.actor} at {self.message}, {self.place}, {self.error.__name__}"


class Tracer(ABC):
    """Looks at every turn while it is installed."""

    turn = 0

    def installed(self) -> AbstractContextManager[None]:
        """Look at the turns and the starts of all actors."""
        dispatch: Any = vars(Actor)["_dispatch"]
        start: Any = vars(Actor)["_start"]

        def dispatching(actor: Actor, message: Any) -> Any:
            return self._watch(actor, message, lambda: dispatch(actor, message))

        def starting(actor: Actor) -> None:
            self._watch(actor, None, lambda: start(actor))

        return other_bounds((Actor, "_dispatch", dispatching), (Actor, "_start", starting))

    def _watch(self, actor: Actor, message: Any, act: Callable[[], Any]) -> Any:
        self.turn += 1
        if not self.wants(actor, message) or isinstance(message, ChildStopped):
            return act()  # that a child has stopped is noted before anything can happen
        self.at(actor, message, 0, "before")
        step = 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal step
            if event == "line":
                step += 1
                self.at(actor, message, step, f"{_name(frame.f_code)}:{frame.f_lineno}")
            return line

        def call(frame: FrameType, event: str, _: Any) -> Any:
            return line if _concerns(frame.f_code) else None

        traced = sys.gettrace()
        sys.settrace(call)
        try:
            answer = act()
        finally:
            sys.settrace(traced)
        self.at(actor, message, AFTER, "after")
        return answer

    @abstractmethod
    def wants(self, actor: Actor, message: Any) -> bool:
        """Whether to look at this turn."""

    @abstractmethod
    def at(self, actor: Actor, message: Any, step: int, place: str) -> None:
        """A turn has come to a place; may raise to crash it there."""


class Recorder(Tracer):
    """Lists the points of a run: each line once, and each message's beginning and end."""

    def __init__(
        self, seed: int, points: dict[tuple[str, ...], Point], active: Callable[[], bool]
    ) -> None:
        self._seed = seed
        self._points = points
        self._active = active

    def wants(self, actor: Actor, message: Any) -> bool:
        return self._active()

    def at(self, actor: Actor, message: Any, step: int, place: str) -> None:
        kind, what = type(actor).__name__, type(message).__name__
        key = (kind, place) if 0 < step < AFTER else (kind, what, place)
        if key not in self._points:
            self._points[key] = Point(self._seed, self.turn, step, kind, what, place)


class Crash(Tracer):
    """Raises an error at a point.

    Attributes:
        victim: the name of the actor that has crashed; empty until then.
    """

    victim = ""

    def __init__(self, point: Point) -> None:
        self._point = point

    def wants(self, actor: Actor, message: Any) -> bool:
        return self.turn == self._point.turn

    def at(self, actor: Actor, message: Any, step: int, place: str) -> None:
        # Where caches have been filled by other runs, there are fewer steps to the same line.
        if place == self._point.place and not self.victim:
            self.victim = actor.name
            raise self._point.error


_known: dict[CodeType, str] = {}


def _name(code: CodeType) -> str:
    """Name the file of some code, as seen from the package; empty when it is another's."""
    name = _known.get(code)
    if name is None:
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            name = str(path.relative_to(PACKAGE))
        else:
            name = code.co_filename if code.co_filename.startswith(_PLANTED) else ""
        _known[code] = name
    return name


def _concerns(code: CodeType) -> bool:
    name = _name(code)
    return name.startswith(_ROOMS) and name not in _MACHINERY

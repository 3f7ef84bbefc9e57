"""Actors that hold no greenlet while they have no mail live and end like all others.

PYK-P1, P2, P6.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors.errors import ActorStoppedError
from proxy_actors.messages.lifecycle import Stop
from tests.actors.stage import Act, Puppet, Stage, failing


class Napper(Puppet):
    """A puppet of which there might be thousands."""

    resident = False


@pytest.fixture(params=[True, False], ids=["inline", "told"])
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(inline=request.param)


@pytest.fixture
def napper(stage: Stage) -> Napper:
    napper = Napper(stage)
    stage.begin(napper)
    return napper


def test_idle_actor_holds_no_greenlet(stage: Stage, napper: Napper) -> None:
    assert not stage.tasks()
    handled: list[Any] = []
    for number in range(3):
        assert napper.ref.tell(Act(lambda actor, number=number: handled.append(number)))
    stage.run(1.0)
    assert handled == [0, 1, 2]
    assert stage.do(lambda: napper.ref.ask(Act(lambda actor: "answer"), 2000.0)) == "answer"
    assert not stage.tasks()
    assert napper.notes == ["started"]


def test_mail_to_itself_is_handled(stage: Stage, napper: Napper) -> None:
    handled: list[Any] = []
    note = Act(lambda actor: handled.append("noted"))
    stage.do(lambda: napper.ref.deliver(Act(lambda actor: actor.ref.tell(note))))
    stage.run(1.0)
    assert handled == ["noted"]
    assert not stage.tasks()


def test_it_stops_when_it_is_told(stage: Stage, napper: Napper) -> None:
    napper.ref.tell(Stop())
    stage.run(1.0)
    assert stage.ear.last_words() == [("puppet", "normal")]
    assert napper.notes == ["started", "stopped"]
    assert not napper.ref.tell(Act())
    with pytest.raises(ActorStoppedError):
        stage.do(lambda: napper.ref.ask(Act(), 2000.0))


def test_it_ends_with_the_turn_that_says_so(stage: Stage, napper: Napper) -> None:
    assert stage.do(lambda: napper.ref.ask(Act(lambda actor: actor.stop()), 2000.0)) is None
    stage.run(1.0)
    assert stage.ear.last_words() == [("puppet", "normal")]


def test_crash_is_its_end(stage: Stage, napper: Napper) -> None:
    late = Act()
    stage.do(lambda: napper.ref.deliver(failing(LookupError())))
    napper.ref.tell(late)
    stage.run(1.0)
    assert stage.ear.last_words() == [("puppet", "crashed")]
    assert napper.notes[:2] == ["started", "crashed"]
    assert not stage.tasks()


def test_crash_of_its_start_is_its_end(stage: Stage) -> None:
    napper = Napper(stage)

    def fail() -> None:
        raise LookupError

    napper.starting = fail
    stage.begin(napper)
    assert stage.ear.last_words() == [("puppet", "crashed")]

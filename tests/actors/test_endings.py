"""How actors end: promptly, with nothing lost, children first, and never without a last word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy_actors.actors.base import STOP_CHILDREN_S_MAX, Actor
from proxy_actors.actors.inbox import FAST_MAIL_MAX
from proxy_actors.errors import ActorStoppedError
from proxy_actors.messages.lifecycle import ChildStopped, DescribeState, Stop, StopReason
from proxy_actors.world.sim_waits import SimTask
from tests.actors.stage import Act, FastAct, Puppet, Stage, failing

INLINE = pytest.mark.parametrize("inline", [True, False], ids=["inline", "queued"])


class Parent(Puppet):
    """Stops its children c first, then b and a together."""

    def stop_order(self) -> list[list[str]]:
        return [["c"], ["b", "a"]]

    def on_child_stopped(self, message: ChildStopped) -> None:
        self.notes.append(message.name)


class Child(Puppet):
    """Notes its end where all can see it."""

    def __init__(self, stage: Stage, name: str, ends: list[str]) -> None:
        super().__init__(stage, name)
        self.ends = ends

    def on_stop(self) -> None:
        self.ends.append(self.name)


class Deaf(Child):
    """Does not stop when told."""

    def stop(self) -> None:
        self.ends.append(f"{self.name} was told")


def family(
    stage: Stage, *children: Callable[[Stage, str, list[str]], Child]
) -> tuple[Parent, list[str]]:
    """A parent with children a, b, c, and the list of their ends."""
    parent, ends = Parent(stage, "parent"), []
    stage.begin(parent)
    for name, make in zip("abc", children or (Child,) * 3, strict=True):
        child = make(stage, name, ends)
        parent.ref.tell(Act(lambda actor, child=child: actor.start_child(child)))
    stage.run(1.0)
    assert len(parent.children) == 3
    return parent, ends


def task_of(stage: Stage, actor: Actor) -> SimTask:
    (task,) = [x for x in stage.live if x.owner == f"actor {type(actor).__name__}"]
    return task


# The end itself.


def test_stop_is_prompt_however_much_mail_is_waiting() -> None:
    """PYK-P6: in Pykka a stop queues behind all of it."""
    stage = Stage()
    puppet = Puppet(stage, mail_max=10_000)
    handled: list[int] = []
    for number in range(10_000):
        assert puppet.ref.tell(Act(lambda actor, number=number: handled.append(number)))
    puppet.ref.tell(Stop())
    stage.begin(puppet)
    assert stage.ear.last_words() == [("puppet", "normal")]
    assert handled == []
    assert puppet.undelivered == 10_000


def test_mail_left_in_the_box_is_handed_over_in_order_and_askers_are_told() -> None:
    """PYK-P8: what a return gives back is not lost with the actor."""
    stage = Stage()
    puppet = Puppet(stage)
    mail = [Act(lambda actor: None) for _ in range(3)]
    puppet.ref.tell(Stop())
    for message in mail[:2]:
        puppet.ref.tell(message)
    asked = stage.start(lambda: puppet.ref.ask(mail[2], stage.now_s() + 60.0))
    described = stage.start(lambda: puppet.ref.ask(DescribeState(), stage.now_s() + 60.0))
    stage.run(1.0)
    stage.begin(puppet)
    assert puppet.notes == ["started", "stopped", *mail]
    assert puppet.undelivered == 3, "what every actor understands is not counted"
    for outcome in (asked, described):
        with pytest.raises(ActorStoppedError):
            outcome.result()


@INLINE
def test_dead_actor_refuses_at_once(inline: bool) -> None:
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    puppet.ref.tell(Stop())
    stage.run(1.0)
    assert not puppet.ref.is_alive()
    assert not puppet.ref.tell(Act())
    assert not puppet.ref.deliver_when_room(Act(), 0.0)
    with pytest.raises(ActorStoppedError):
        puppet.ref.ask(Act(), stage.now_s() + 5.0)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("end", [failing(LookupError()), Stop()], ids=["crash", "stop"])
def test_actor_ends_whoever_ran_its_last_turn(end: Act | Stop, seed: int) -> None:
    """After an inline turn the loop has no mail to wake it, and has the last words to say."""
    stage = Stage(seed)
    puppet = stage.puppet()

    def ask() -> None:
        try:
            puppet.ref.ask(end, stage.now_s() + 5.0)
        except ActorStoppedError:
            pass

    stage.do(ask)
    stage.run(1.0)
    assert [name for name, _ in stage.ear.last_words()] == ["puppet"]
    assert dict(stage.tasks()) == {}


def test_mail_between_the_last_turn_and_the_end_is_undelivered() -> None:
    stage = Stage(inline=True)
    puppet = stage.puppet()
    late = Act(lambda actor: actor.notes.append("handled"))
    crash = failing(LookupError())

    def crash_and_tell() -> None:
        with pytest.raises(ActorStoppedError):
            puppet.ref.ask(crash, stage.now_s() + 5.0)
        assert puppet.ref.tell(late)
        with pytest.raises(ActorStoppedError):
            puppet.ref.ask(Act(), stage.now_s() + 5.0)

    stage.do(crash_and_tell)
    stage.run(1.0)
    assert puppet.notes[:4] == ["started", "crashed", crash, late]


@pytest.mark.parametrize("hook", ["on_stop", "on_undelivered"])
def test_error_in_a_last_hook_is_a_crash_and_skips_nothing(hook: str) -> None:
    stage = Stage()
    puppet = Puppet(stage)

    def fail(*mail: Any) -> None:
        puppet.notes.append(hook)
        raise LookupError

    setattr(puppet, hook, fail)
    for message in (Act(), Act(), Stop()):
        puppet.ref.tell(message)
    stage.begin(puppet)
    assert stage.ear.last_words() == [("puppet", "crashed")]
    assert puppet.undelivered == 2
    assert puppet.notes.count(hook) == (1 if hook == "on_stop" else 2)


def test_actor_that_is_killed_crashes_and_says_so() -> None:
    """PYK-P2: GreenletExit where the actor waits for mail."""
    stage = Stage()
    puppet = stage.puppet()
    task_of(stage, puppet).kill()
    stage.run(1.0)
    assert stage.ear.last_words() == [("puppet", "crashed")]
    assert puppet.notes == ["started", "crashed"]


# Children.


def test_children_are_stopped_in_groups_and_before_their_parent() -> None:
    stage = Stage()
    parent, ends = family(stage)
    parent.ref.tell(Stop())
    stage.run(1.0)
    assert ends[0] == "c"
    assert sorted(ends) == ["a", "b", "c"]
    assert parent.notes == ["started", "stopped"], "nothing is told to who is stopping already"
    assert stage.ear.last_words() == [("parent", "normal")]
    assert dict(stage.tasks()) == {}


@pytest.mark.parametrize("inline", [True, False])
def test_parent_that_crashes_takes_its_children_down_first(inline: bool) -> None:
    stage = Stage(inline=inline)
    parent, ends = family(stage)
    with pytest.raises(ActorStoppedError):
        stage.do(lambda: parent.ref.ask(failing(LookupError()), stage.now_s() + 5.0))
    stage.run(1.0)
    assert len(ends) == 3
    assert parent.notes[:2] == ["started", "crashed"]
    assert stage.ear.last_words() == [("parent", "crashed")]


def test_parent_goes_on_without_a_child_that_ended() -> None:
    stage = Stage()
    parent, _ = family(stage)
    parent.children["b"].tell(failing(LookupError()))
    stage.run(1.0)
    assert parent.notes == ["started", "b"]
    assert sorted(parent.children) == ["a", "c"]


def test_news_of_an_earlier_incarnation_forgets_no_child() -> None:
    """PYK-P5."""
    stage = Stage()
    parent, _ = family(stage)
    parent.ref.tell(ChildStopped("b", 7, StopReason.CRASHED))
    stage.run(1.0)
    assert sorted(parent.children) == ["a", "b", "c"]


def test_child_that_does_not_stop_holds_nobody_up_for_ever() -> None:
    """And those that were to be stopped after it are told all the same."""
    stage = Stage()
    parent, ends = family(stage, Child, Child, Deaf)
    began_s = stage.now_s()
    parent.ref.tell(Stop())
    stage.run_until(lambda: bool(stage.ear.last_words()))
    assert stage.now_s() == pytest.approx(began_s + STOP_CHILDREN_S_MAX)
    stage.run(1.0)
    assert ends[0] == "c was told"
    assert sorted(ends[1:]) == ["a", "b"]


def test_askers_of_a_stopping_parent_do_not_wait_for_its_children() -> None:
    stage = Stage(inline=False)
    parent, _ = family(stage, Child, Child, Deaf)
    late = Act(lambda actor: None)
    parent.ref.tell(Stop())
    stage.run(1.0)
    with pytest.raises(ActorStoppedError):
        stage.do(lambda: parent.ref.ask(late, stage.now_s() + 5.0), seconds=1.0)
    assert late in parent.notes


def test_parent_that_is_killed_while_it_stops_still_waits_for_its_children() -> None:
    stage = Stage()
    parent, ends = family(stage, Child, Child, Deaf)
    parent.ref.tell(Stop())
    stage.run(1.0)
    task_of(stage, parent).kill()
    stage.run(2 * STOP_CHILDREN_S_MAX)
    assert sorted(ends[1:]) == ["a", "b"]
    assert stage.ear.last_words() == [("parent", "crashed")]


def test_stop_gets_into_a_fast_lane_that_is_full() -> None:
    """Else a parent would wait in vain for a child that was never told."""
    stage = Stage()
    puppet = Puppet(stage)
    for _ in range(FAST_MAIL_MAX):
        assert puppet.ref.tell(FastAct())
    assert not puppet.ref.tell(FastAct())
    assert puppet.ref.tell(Stop())
    stage.begin(puppet)
    assert stage.ear.last_words() == [("puppet", "normal")]

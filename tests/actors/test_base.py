"""The loop of all actors: what Pykka leaves open, PYK-P1 to PYK-P11.

Full boxes are in test_full_box.py; how an actor ends is in test_endings.py.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pykka
import pytest
from pykka import messages as pykka_messages

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.errors import (
    ActorStoppedError,
    ConfigurationError,
    DeadlineError,
    ProxyActorsError,
    RefusedError,
)
from proxy_actors.messages.lifecycle import (
    ActorState,
    ChildStarted,
    ChildStopped,
    DescribeState,
    Stop,
    StopReason,
)
from tests.actors.stage import Act, Puppet, Stage, failing

BOTH_WAYS = pytest.mark.parametrize("inline", [True, False], ids=["inline", "queued"])
ERRORS = [
    LookupError("a bug"),
    gevent.Timeout(None),
    gevent.GreenletExit(),
    SystemExit(1),
    KeyboardInterrupt(),
]


# Errors.


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@BOTH_WAYS
def test_error_in_an_asked_turn_is_a_crash_that_the_asker_hears_of(
    error: BaseException, inline: bool
) -> None:
    """PYK-P1, PYK-P2: whatever is raised, however the mail came, and nobody hangs."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    act = failing(error)
    with pytest.raises(ActorStoppedError):
        stage.do(lambda: puppet.ref.ask(act, stage.now_s() + 5.0))
    stage.run(1.0)
    assert stage.ear.last_words() == [("puppet", "crashed")]
    assert puppet.notes == ["started", "crashed", act]
    assert dict(stage.tasks()) == {}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_in_a_told_turn_is_a_crash_of_this_actor_alone(error: BaseException) -> None:
    """PYK-P1, PYK-P2: in Pykka a stray timeout ends every actor of the process."""
    stage = Stage()
    puppet, other = stage.puppet(), stage.puppet()
    act = failing(error)
    assert puppet.ref.tell(act)
    stage.run(1.0)
    assert puppet.notes == ["started", "crashed", act]
    assert stage.do(lambda: other.ref.ask(Act(lambda actor: 7), stage.now_s() + 5.0)) == 7


def test_configuration_error_is_told_apart() -> None:
    stage = Stage()
    puppet = stage.puppet()
    puppet.ref.tell(failing(ConfigurationError("upstream: no url")))
    stage.run(1.0)
    (stopped,) = [x for x in stage.ear.heard if isinstance(x, ChildStopped)]
    assert stopped.reason is StopReason.CONFIGURATION
    assert stopped.error == "ConfigurationError: upstream: no url"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_failed_start_is_a_crash_that_the_parent_hears_of(error: BaseException) -> None:
    """PYK-P3: in Pykka the reference is dead and nobody knows."""
    stage = Stage()
    puppet = Puppet(stage)

    def fail() -> None:
        raise error

    puppet.starting = fail
    asked = stage.start(lambda: puppet.ref.ask(Act(), stage.now_s() + 5.0))
    stage.begin(puppet)
    with pytest.raises(ActorStoppedError):
        asked.result()
    assert [type(x) for x in stage.ear.heard] == [ChildStopped]
    assert stage.ear.last_words() == [("puppet", "crashed")]
    assert puppet.notes[0] == "crashed"


def test_start_is_told_before_the_first_mail_is_handled() -> None:
    stage = Stage()
    puppet = Puppet(stage)
    puppet.ref.tell(Act(lambda actor: stage.ear.tell("handled")))
    stage.begin(puppet)
    assert stage.ear.heard == [ChildStarted("puppet", 1), "handled"]


# Asking.


@BOTH_WAYS
def test_ask_returns_what_the_actor_returns(inline: bool) -> None:
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    assert stage.do(lambda: puppet.ref.ask(Act(lambda actor: "yes"), stage.now_s() + 5.0)) == "yes"


def test_ask_of_an_idle_actor_takes_no_switch() -> None:
    """PYK-P11: hops are cheap enough when they are calls."""
    stage = Stage(inline=True)
    puppet = stage.puppet()

    def ask() -> int:
        before = stage.steps
        puppet.ref.ask(Act(), stage.now_s() + 5.0)
        return stage.steps - before

    assert stage.do(ask) == 0


@pytest.mark.parametrize("seed", range(20))
def test_inline_turns_keep_the_order_of_mail(seed: int) -> None:
    """A turn is inline only when nothing is in the box and no turn is underway."""
    stage = Stage(seed)
    puppet = stage.puppet()
    sent: list[int] = []
    handled: list[int] = []

    def note(number: int) -> Act:
        sent.append(number)
        return Act(lambda actor: handled.append(number))

    def converse(first: int) -> None:
        for number in range(first, first + 5):
            puppet.ref.tell(note(number))
            puppet.ref.ask(note(number + 100), stage.now_s() + 5.0)

    for first in (0, 10, 20):
        stage.start(lambda first=first: converse(first))
    stage.run(10.0)
    assert len(sent) == 30
    assert handled == sent


@BOTH_WAYS
def test_delivered_mail_is_handled_by_whoever_is_idle(inline: bool) -> None:
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    handled: list[bool] = []
    message = Act(lambda actor: handled.append(True))
    assert puppet.ref.deliver(message)
    assert bool(handled) is inline
    stage.run(1.0)
    puppet.ref.tell(Stop())
    assert puppet.ref.deliver(message)
    stage.run(1.0)
    assert len(handled) == 1, "a busy actor's mail goes through the box"
    assert not puppet.ref.deliver(message)


@BOTH_WAYS
def test_mail_of_a_turn_to_its_own_actor_comes_after_it(inline: bool) -> None:
    """One turn at a time: the box is empty and the loop parked, but the actor is busy."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    steps: list[str] = []

    def run(actor: Puppet) -> None:
        steps.append("began")
        actor.ref.deliver(Act(lambda actor: steps.append("delivered")))
        actor.ref.tell(Act(lambda actor: steps.append("told")))
        steps.append("ended")

    stage.do(lambda: puppet.ref.ask(Act(run), stage.now_s() + 5.0))
    stage.run(1.0)
    assert steps == ["began", "ended", "delivered", "told"]
    assert stage.errors == []


def test_turn_that_waits_is_refused_by_the_simulator() -> None:
    """PYK-P7: an actor that asks another could wait for one that waits for it."""
    stage = Stage(inline=False)
    puppet, other = stage.puppet(), stage.puppet()
    puppet.ref.tell(Act(lambda actor: other.ref.ask(Act(), stage.now_s() + 5.0)))
    stage.run(1.0)
    assert puppet.notes[:2] == ["started", "crashed"]
    assert [type(error) for error in stage.errors] == [AssertionError]


@BOTH_WAYS
def test_deadline_ends_an_ask_and_the_late_answer_is_counted(inline: bool) -> None:
    """PYK-P10."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    kept: list[Reply] = []
    deadline_s = stage.now_s() + 1.0
    with pytest.raises(DeadlineError):
        stage.do(lambda: puppet.ref.ask(Act(keep_reply(kept)), deadline_s))
    assert stage.now_s() >= deadline_s
    kept[0].set("late")
    assert puppet.late_replies == 1


@BOTH_WAYS
def test_error_of_an_ask_is_freed_at_its_end(inline: bool) -> None:
    """Its traceback holds the ask, which must not hold it: nobody would see either go."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    errors: list[weakref.ref[RefusedError]] = []

    def refuse(actor: Puppet) -> Any:
        assert actor.asked_by is not None
        actor.asked_by.fail(RefusedError(409, "taken"))
        return LATER

    def ask() -> None:
        try:
            puppet.ref.ask(Act(refuse), stage.now_s() + 5.0)
        except RefusedError as error:
            errors.append(weakref.ref(error))

    gc.disable()
    try:
        stage.do(ask)
        assert [error() for error in errors] == [None]
    finally:
        gc.enable()


def keep_reply(kept: list[Reply]) -> Callable[[Puppet], Any]:
    def run(actor: Puppet) -> Any:
        assert actor.asked_by is not None
        kept.append(actor.asked_by)
        return LATER

    return run


@BOTH_WAYS
@pytest.mark.parametrize("failed", [False, True], ids=["answered", "failed"])
def test_later_is_answered_once_and_a_second_answer_is_counted(inline: bool, failed: bool) -> None:
    """PYK-P10: in Pykka the second answer is an error of the actor that gives it."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    kept: list[Reply] = []
    asked = stage.start(lambda: puppet.ref.ask(Act(keep_reply(kept)), stage.now_s() + 5.0))
    stage.run(0.1)
    assert not asked.ended
    if failed:
        kept[0].fail(RefusedError(409, "taken"))
    else:
        kept[0].set("first")
    kept[0].set("second")
    kept[0].fail(RefusedError(409, "third"))
    stage.run(0.1)
    assert puppet.late_replies == 2
    if failed:
        with pytest.raises(RefusedError, match="taken"):
            asked.result()
    else:
        assert asked.result() == "first"


@BOTH_WAYS
def test_answer_given_in_the_turn_is_the_answer(inline: bool) -> None:
    """PYK-P10: what the turn returns besides comes second."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()

    def run(actor: Puppet) -> str:
        assert actor.asked_by is not None
        actor.asked_by.set("first")
        actor.asked_by.set("second")
        return "third"

    assert stage.do(lambda: puppet.ref.ask(Act(run), stage.now_s() + 5.0)) == "first"
    assert puppet.late_replies == 2


def test_nobody_is_asked_by_a_tell() -> None:
    stage = Stage()
    puppet = stage.puppet()
    seen: list[Any] = []
    puppet.ref.tell(Act(lambda actor: seen.append(actor.asked_by)))
    stage.run(1.0)
    assert seen == [None]


# Names.


def test_slot_finds_the_present_incarnation_at_the_moment_of_sending() -> None:
    """PYK-P5: a reference outlived by a restart would be stale."""
    stage = Stage()
    slot = Slot("puppet")
    parent = stage.puppet()
    assert not slot.tell(Act())
    with pytest.raises(ActorStoppedError):
        slot.ask(Act(), stage.now_s() + 5.0)
    with pytest.raises(ActorStoppedError):
        stage.do(lambda: slot.ask(Act(), stage.now_s() + 5.0))
    for incarnation in (1, 2):
        child = Puppet(stage)
        parent.ref.tell(Act(lambda actor: actor.start_child(child, slot, incarnation)))
        stage.run(1.0)
        assert slot.ref is child.ref
        assert child.ref.incarnation == slot.starts == incarnation
        answer = stage.do(lambda: slot.ask(Act(lambda actor: actor), stage.now_s() + 5.0))
        assert answer is child
        child.ref.tell(failing(LookupError()))
        stage.run(1.0)
        assert slot.ref is None
        assert not slot.tell(Act())
        assert not slot.deliver_when_room(Act(), 0.0)


def test_two_children_of_one_name_are_an_error_of_the_parent() -> None:
    """The first would be lost, and outlive its parent."""
    stage = Stage()
    parent = stage.puppet()

    def start_both(actor: Puppet) -> None:
        actor.start_child(Puppet(stage))
        actor.start_child(Puppet(stage))

    parent.ref.tell(Act(start_both))
    stage.run(1.0)
    assert parent.notes[:2] == ["started", "crashed"]
    assert dict(stage.tasks()) == {}


def test_actors_are_in_no_list_of_pykkas() -> None:
    """PYK-P9: a linear list, 7.9 s to stop ten thousand."""
    stage = Stage()
    stage.puppet()
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.parametrize(
    "message",
    [
        pykka_messages.ProxyCall(("notes", "clear"), (), {}),
        pykka_messages.ProxyGetAttr(("notes",)),
        pykka_messages.ProxySetAttr(("notes",), []),
    ],
    ids=lambda message: type(message).__name__,
)
@BOTH_WAYS
def test_actor_is_not_reached_through_a_proxy(message: Any, inline: bool) -> None:
    """Whoever holds a reference would call any method of the actor."""
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    assert not puppet.ref.tell(message)
    assert not puppet.ref.deliver(message)
    with pytest.raises(ProxyActorsError):
        stage.do(lambda: puppet.ref.ask(message, stage.now_s() + 5.0))
    stage.run(1.0)
    assert puppet.notes == ["started"]


# Operators.


@BOTH_WAYS
def test_every_actor_describes_itself(inline: bool) -> None:
    stage = Stage(inline=inline)
    puppet = stage.puppet()
    puppet.ref.tell(Act())
    stage.run(1.0)
    state = stage.do(lambda: puppet.ref.ask(DescribeState(), stage.now_s() + 5.0))
    assert state == ActorState(
        name="puppet",
        kind="Puppet",
        mailbox_depth=0,
        mailbox_age_s=0.0,
        handled=1,
        undelivered=0,
        late_replies=0,
        busy_s=0.0,
        turn_s_max=0.0,
        children=(),
        detail={},
    )


def test_state_tells_how_long_the_box_has_not_been_served() -> None:
    stage = Stage()
    puppet = Puppet(stage)
    puppet.ref.tell(Act())
    stage.run(3.0)
    assert (puppet._state().mailbox_depth, puppet._state().mailbox_age_s) == (1, 3.0)


def test_slow_turn_is_named(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    puppet = stage.puppet()

    def take_long(actor: Puppet) -> None:
        stage._now_s += 0.06

    puppet.ref.tell(Act(take_long))
    stage.run(1.0)
    assert "turn_was_slow actor=puppet message=Act seconds=0.060" in caplog.text


def test_stop_does_not_interrupt_the_turn() -> None:
    stage = Stage()
    puppet = stage.puppet()

    def run(actor: Actor) -> str:
        actor.ref.tell(Stop())
        actor.stop()
        return "answered"

    answer = stage.do(lambda: puppet.ref.ask(Act(run), stage.now_s() + 5.0))
    assert answer == "answered"
    stage.run(1.0)
    assert puppet.notes == ["started", "stopped"]

"""What becomes of mail when a box is full, and who waits for room (PYK-P6, PYK-P8)."""

from __future__ import annotations

import pytest

from proxy_actors.errors import DeadlineError, MailboxFullError
from proxy_actors.messages.lifecycle import Stop
from tests.actors.stage import Act, FastAct, GivesBack, Puppet, Stage, failing


def test_full_box_refuses_a_tell_and_counts_it() -> None:
    """PYK-P6."""
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    assert puppet.ref.tell(Act())
    assert not puppet.ref.tell(Act())
    assert puppet.undelivered == 1


def test_full_box_refuses_an_ask() -> None:
    """PYK-P6: refused at once, not at its deadline."""
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    puppet.ref.tell(Act())
    with pytest.raises(MailboxFullError):
        stage.do(lambda: puppet.ref.ask(Act(), stage.now_s() + 5.0), seconds=1.0)


def test_full_box_takes_what_gives_something_back() -> None:
    """PYK-P8: a return is never refused."""
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    handled: list[str] = []
    puppet.ref.tell(Act(lambda actor: handled.append("first")))
    assert puppet.ref.tell(GivesBack(lambda actor: handled.append("returned")))
    stage.begin(puppet)
    assert handled == ["first", "returned"]


def test_sender_that_cannot_wait_is_told_that_there_is_no_room() -> None:
    """And nothing is lost or counted by that: it comes again."""
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    handled: list[str] = []
    first, second = [
        Act(lambda actor, name=name: handled.append(name)) for name in ("first", "second")
    ]
    assert puppet.ref.deliver_if_room(first)
    assert not puppet.ref.deliver_if_room(second)
    assert puppet.undelivered == 0
    stage.begin(puppet)
    assert stage.do(lambda: puppet.ref.deliver_if_room(second))
    stage.run(1.0)
    assert handled == ["first", "second"]
    puppet.ref.tell(Stop())
    stage.run(1.0)
    assert puppet.ref.deliver_if_room(first)
    assert handled == ["first", "second"]


def test_sender_that_moves_bytes_waits_for_room() -> None:
    stage = Stage()
    puppet = Puppet(stage, mail_max=2)
    handled: list[int] = []

    def send(sender: int) -> None:
        for number in range(10):
            message = Act(lambda actor, mail=sender + number: handled.append(mail))
            assert puppet.ref.deliver_when_room(message, stage.now_s() + 5.0)
            assert len(puppet.actor_inbox) <= 2

    senders = [stage.start(lambda sender=sender: send(sender)) for sender in (0, 100, 200)]
    stage.run(1.0)
    assert not handled
    stage.begin(puppet)
    for sender in senders:
        sender.result()
    assert sorted(handled) == [*range(10), *range(100, 110), *range(200, 210)]
    assert [x for x in handled if x < 100] == [*range(10)]


def test_wait_for_room_has_a_deadline() -> None:
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    puppet.ref.tell(Act())
    with pytest.raises(DeadlineError):
        stage.do(lambda: puppet.ref.deliver_when_room(Act(), stage.now_s() + 1.0))
    assert puppet._room == []


def test_wait_for_room_ends_with_the_actor() -> None:
    stage = Stage()
    puppet = Puppet(stage, mail_max=1)
    puppet.slot.enter(puppet.ref)
    puppet.ref.tell(failing(LookupError()))
    waits = [stage.start(lambda: puppet.slot.deliver_when_room(Act(), stage.now_s() + 60.0))]
    waits += [stage.start(lambda: puppet.ref.deliver_when_room(Act(), stage.now_s() + 60.0))]
    stage.run(1.0)
    stage.begin(puppet)
    assert [outcome.result() for outcome in waits] == [False, False]
    assert puppet.notes[:2] == ["started", "crashed"]


def test_room_of_a_killed_sender_goes_to_the_next() -> None:
    """The box may stay empty for long, and nobody else would wake those that wait."""
    stage = Stage(seed=3)
    puppet = Puppet(stage, mail_max=1)
    puppet.ref.tell(Act())
    waits = []
    for _ in range(2):
        waits.append(stage.start(lambda: puppet.ref.deliver_when_room(Act(), stage.now_s() + 60.0)))
        stage.run(0.1)
    puppet._start_actor_loop()
    stage.after_step.append(lambda: len(puppet._room) == 1 and waits[0].task.kill())
    stage.run(1.0)
    assert waits[1].ended
    assert waits[1].result() is True


def test_flood_of_fast_mail_lets_ordinary_mail_through() -> None:
    """PYK-P6: each turn sends itself more fast mail, and the return is handled all the same."""
    stage = Stage()
    puppet = stage.puppet()
    turns = 0
    returned_at: list[int] = []

    def flood(actor: Puppet) -> None:
        nonlocal turns
        turns += 1
        if turns < 1000:
            actor.ref.tell(FastAct(flood))
        if turns == 100:
            actor.ref.tell(Act(lambda actor: returned_at.append(turns)))

    puppet.ref.tell(FastAct(flood))
    stage.run(1.0)
    assert turns == 1000
    assert 100 <= returned_at[0] <= 164

"""The box of an actor: two lanes, bounds, fairness (PYK-P6)."""

from __future__ import annotations

from typing import ClassVar

import pytest

from proxy_actors.actors.inbox import FAST_MAIL_MAX, FAST_RUN_MAX, Inbox, Mail
from proxy_actors.messages.base import Message


class Normal(Message, frozen=True):
    number: int = 0


class Fast(Normal, frozen=True):
    fast: ClassVar[bool] = True


class GivesBack(Normal, frozen=True):
    always_accepted: ClassVar[bool] = True


class FastCommand(Fast, frozen=True):
    always_accepted: ClassVar[bool] = True


def mail(message: Message, posted_s: float = 0.0) -> Mail:
    return Mail(message, None, posted_s)


def take_all(box: Inbox) -> list[Message]:
    taken = []
    while (found := box.take()) is not None:
        taken.append(found.message)
    return taken


def test_fast_lane_goes_first_and_each_lane_keeps_its_order() -> None:
    box = Inbox()
    for message in (Normal(1), Fast(1), Normal(2), Fast(2)):
        assert box.offer(mail(message))
    assert take_all(box) == [Fast(1), Fast(2), Normal(1), Normal(2)]


def test_normal_lane_is_served_once_in_sixty_four() -> None:
    box = Inbox()
    for number in range(200):
        box.offer(mail(Fast(number)))
        box.offer(mail(Normal(number)))
    places = [n for n, message in enumerate(take_all(box)) if type(message) is Normal]
    assert FAST_RUN_MAX == 64
    assert places[:3] == [63, 127, 191]


def test_normal_mail_that_comes_into_a_fast_flood_waits_for_sixty_three_at_most() -> None:
    box = Inbox()
    for number in range(150):
        box.offer(mail(Fast(number)))
    for _ in range(30):
        box.take()
    box.offer(mail(Normal(1)))
    taken = take_all(box)
    assert taken.index(Normal(1)) <= FAST_RUN_MAX - 1


@pytest.mark.parametrize("kind, bound", [(Normal, 3), (Fast, FAST_MAIL_MAX)])
def test_full_lane_refuses(kind: type[Normal], bound: int) -> None:
    box = Inbox(mail_max=3)
    assert all(box.offer(mail(kind(number))) for number in range(bound))
    assert not box.offer(mail(kind(bound)))
    assert len(box) == bound


def test_flood_in_one_lane_leaves_room_in_the_other() -> None:
    box = Inbox(mail_max=1)
    box.offer(mail(Normal(1)))
    assert box.offer(mail(Fast(1)))


@pytest.mark.parametrize("kind, plain", [(GivesBack, Normal), (FastCommand, Fast)])
def test_what_gives_something_back_is_never_refused(
    kind: type[Normal], plain: type[Normal]
) -> None:
    box = Inbox(mail_max=1)
    while box.offer(mail(plain())):
        pass
    assert box.offer(mail(kind()))
    assert take_all(box)[-1] == kind()


def test_room_is_room_for_ordinary_mail() -> None:
    box = Inbox(mail_max=1)
    assert box.has_room()
    box.offer(mail(Fast()))
    assert box.has_room()
    box.offer(mail(GivesBack()))
    assert not box.has_room()


def test_age_of_the_box_is_that_of_its_oldest_mail() -> None:
    box = Inbox()
    assert box.oldest_s() is None
    assert box.empty()
    box.offer(mail(Normal(), 5.0))
    box.offer(mail(Fast(), 7.0))
    assert box.oldest_s() == 5.0
    assert not box.empty()
    take_all(box)
    assert box.empty()


def test_pykka_cannot_go_around_the_bounds() -> None:
    box = Inbox()
    with pytest.raises(NotImplementedError):
        box.put(mail(Normal()))
    with pytest.raises(NotImplementedError):
        box.get()

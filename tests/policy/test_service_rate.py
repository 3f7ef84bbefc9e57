"""How long a wait is guessed to be, and when nothing is known."""

from __future__ import annotations

import pytest

from proxy_actors.policy.service_rate import (
    SERVED_MIN,
    STALE_S,
    WINDOW_S_MAX,
    ServiceRate,
)


def busy(seconds: float, per_s: float, rate: ServiceRate | None = None) -> ServiceRate:
    """A queue that was never empty and was served at an even pace, from 100.0 on."""
    rate = ServiceRate() if rate is None else rate
    rate.observe(5, 0, 100.0)
    for number in range(1, round(seconds * per_s) + 1):
        rate.observe(5, 1, 100.0 + number / per_s)
    return rate


@pytest.mark.parametrize("per_s", [2.0, 20.0, 640.0, 10_000.0])
def test_wait_is_as_long_as_it_takes_to_serve_those_before(per_s: float) -> None:
    rate = busy(8.0, per_s)
    assert rate.wait_s(0) == pytest.approx(1 / per_s, rel=0.01)
    assert rate.wait_s(99) == pytest.approx(100 / per_s, rel=0.01)


@pytest.mark.parametrize("seconds, per_s", [(0.0, 1.0), (0.2, 100.0), (7.0, 1.0)])
def test_too_little_is_nothing(seconds: float, per_s: float) -> None:
    assert busy(seconds, per_s).wait_s(1000) is None


def test_who_did_not_wait_says_nothing_of_how_fast_a_queue_is_served() -> None:
    rate = ServiceRate()
    for number in range(1000):
        rate.observe(0, 1, 100.0 + number)
    assert rate.wait_s(1000) is None


def test_time_without_a_queue_does_not_count() -> None:
    rate = busy(1.0, 100.0)
    rate.observe(0, 0, 101.0)
    rate.observe(1, 0, 101.0 + STALE_S)
    assert rate.wait_s(99) == pytest.approx(1.0, rel=0.05)


def test_what_was_seen_long_ago_is_forgotten() -> None:
    rate = busy(1.0, 100.0)
    rate.observe(0, 0, 101.0)
    rate.observe(1, 0, 101.0 + STALE_S + 0.1)
    assert rate.wait_s(99) is None


def test_another_pace_is_known_after_two_windows() -> None:
    rate = busy(3.0, 20.0)
    for number in range(1, 1000):
        rate.observe(5, 1, 103.0 + number / 500.0)
    assert rate.wait_s(499) == pytest.approx(1.0, rel=0.05)


def test_queue_that_nobody_serves_is_one_of_which_nothing_is_known() -> None:
    """Its waiters have their time: they may be served yet, and their refusal is sure anyway."""
    rate = busy(1.0, SERVED_MIN)
    now_s = 101.0
    for _ in range(3):
        now_s += WINDOW_S_MAX
        rate.observe(5, 0, now_s)
    assert rate.wait_s(1) is None

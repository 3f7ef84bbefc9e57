"""How long to wait between two tries."""

from __future__ import annotations

import random

import pytest

from proxy_actors.policy.backoff import Backoff, BackoffLimits

LIMITS = BackoffLimits(base_s=0.1, cap_s=5.0, failures_max=3)
BOUNDS_S = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_wait_is_drawn_from_zero_to_a_bound_that_doubles_up_to_the_cap() -> None:
    """Full jitter: the draw is the fraction of the bound."""
    for drawn in (0.0, 0.25, 0.999):
        backoff = Backoff(LIMITS, lambda: drawn)
        waits = [backoff.failed() for _ in BOUNDS_S]
        assert waits == pytest.approx([drawn * bound_s for bound_s in BOUNDS_S])


def test_waits_of_many_are_spread_over_the_whole_bound() -> None:
    """FLT-P24: there is no second wave; a tenth of the bound gets about a tenth of the tries."""
    chance = random.Random(1)
    waits = [Backoff(LIMITS, chance.random).failed() for _ in range(10_000)]
    counts = [0] * 10
    for wait_s in waits:
        counts[int(wait_s / LIMITS.base_s * 10)] += 1
    assert min(counts) > 900
    assert max(counts) < 1100


def test_wait_is_bounded_after_any_number_of_failures() -> None:
    backoff = Backoff(LIMITS, lambda: 1.0)
    for _ in range(2000):
        assert backoff.failed() <= LIMITS.cap_s


def test_success_begins_anew() -> None:
    backoff = Backoff(LIMITS, lambda: 1.0)
    backoff.failed()
    backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == LIMITS.base_s


def test_budget_is_spent_by_failures_in_a_row_alone() -> None:
    backoff = Backoff(LIMITS, lambda: 1.0)
    for spent in (False, False, True, True):
        backoff.failed()
        assert backoff.spent is spent
    backoff.succeeded()
    assert not backoff.spent

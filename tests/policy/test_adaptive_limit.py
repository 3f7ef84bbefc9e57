"""How many calls an upstream bears, found out from how long they take.

The upstream of the tests has slots; a call beyond them waits for one. Time is virtual.
"""

from __future__ import annotations

import heapq
import itertools

import pytest

from proxy_actors.policy.adaptive_limit import (
    MEASURE_EVERY_S,
    SAMPLES_MIN,
    WINDOW_S,
    AdaptiveLimit,
)
from tests.defects import Defect, planted


class Upstream:
    """So many slots, each busy with a call for so long; as many callers as may wish to be."""

    def __init__(self, limit: AdaptiveLimit, slots: int, call_s: float, callers: int) -> None:
        self.limit = limit
        self.slots = slots
        self.call_s = call_s
        self.callers = callers
        self.now_s = 100.0
        self.underway: list[tuple[float, float]] = []
        self.free_at_s = [0.0] * slots
        self.seen: list[int] = []

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            while len(self.underway) < min(self.limit.limit, self.callers):
                begins_s = max(heapq.heappop(self.free_at_s), self.now_s)
                heapq.heappush(self.free_at_s, begins_s + self.call_s)
                heapq.heappush(self.underway, (begins_s + self.call_s, self.now_s))
            self.now_s, granted_s = heapq.heappop(self.underway)
            self.limit.returned(granted_s, len(self.underway) + 1, self.now_s)
            self.seen.append(self.limit.limit)


@pytest.mark.parametrize("call_s", [0.05, 0.5])
@pytest.mark.parametrize("slots", [4, 16, 32])
def test_limit_comes_to_what_the_upstream_bears_and_stays_there(slots: int, call_s: float) -> None:
    limit = AdaptiveLimit(2, 256)
    upstream = Upstream(limit, slots, call_s, callers=256)
    upstream.run(60.0)
    upstream.seen.clear()
    upstream.run(MEASURE_EVERY_S * 0.9)
    settled = sorted(upstream.seen)
    assert settled[len(settled) // 20] >= slots
    assert settled[-len(settled) // 20] <= 2.5 * slots + 4


def test_limit_follows_an_upstream_that_bears_less_and_then_more() -> None:
    limit = AdaptiveLimit(2, 256)
    upstream = Upstream(limit, 32, 0.05, callers=256)
    upstream.run(30.0)
    assert limit.limit >= 32
    upstream.free_at_s = [0.0] * 8
    upstream.run(10.0)
    assert limit.limit <= 8 * 2.5 + 4
    upstream.free_at_s = [upstream.now_s] * 64
    upstream.run(20.0)
    assert limit.limit >= 64


def test_upstream_that_has_become_slower_is_measured_anew() -> None:
    """Else the limit would stay at its least: every call would seem to wait."""
    limit = AdaptiveLimit(2, 64)
    upstream = Upstream(limit, 32, 0.02, callers=64)
    upstream.run(20.0)
    upstream.call_s = 0.2
    upstream.run(MEASURE_EVERY_S * 2)
    assert limit.limit >= 32


def test_limit_that_nobody_comes_near_does_not_grow() -> None:
    limit = AdaptiveLimit(2, 256)
    Upstream(limit, 32, 0.05, callers=4).run(50.0)
    assert limit.limit <= 16


def test_limit_keeps_its_bounds_whatever_is_measured() -> None:
    """Every sequence of four windows, short and long, with the limit made use of or not."""
    windows = tuple(itertools.product((0.0, 0.01, 0.1, 10.0), (1, 50)))
    for sequence in itertools.product(windows, repeat=4):
        limit, now_s = AdaptiveLimit(3, 20), 100.0
        for took_s, underway in ((0.01, 3), *sequence):
            before, began_s = limit._adapted, now_s
            now_s += took_s + WINDOW_S * 1.01  # no window is left open
            measuring = limit._measuring
            for _ in range(SAMPLES_MIN):
                limit.returned(now_s - took_s, underway, now_s)
            assert 3 <= limit.limit <= 20
            if measuring or limit._measuring:
                continue
            alone_s = limit._alone_s
            if took_s <= alone_s and underway > 20:
                assert limit._adapted >= before, (sequence, began_s)
            if took_s >= 4 * alone_s:
                # Where half of it and its root are as much as it is, it stays.
                assert limit._adapted < before or before <= 4.0, (sequence, began_s)
            if underway == 1 and before >= 3.0:
                assert limit._adapted <= before, (sequence, began_s)


DEFECTS = (
    Defect("it is measured once and never again", AdaptiveLimit, "returned",
           "now_s >= self._due_s", "False"),
    Defect("it grows though nobody needs it", AdaptiveLimit, "_adapt",
           "self._used * 2 < self._adapted", "False"),
    Defect("it grows without bound", AdaptiveLimit, "_adapt", ", self._most)", ", 1 << 30)"),
    Defect("it never grows", AdaptiveLimit, "_adapt",
           "min(max(gradient, GRADIENT_MIN), GRADIENT_MAX)", "GRADIENT_MIN"),
    Defect("calls of before count as measured alone", AdaptiveLimit, "returned",
           "granted_s < self._since_s", "False"),
)
TESTS = (
    lambda: test_limit_comes_to_what_the_upstream_bears_and_stays_there(32, 0.05),
    test_upstream_that_has_become_slower_is_measured_anew,
    test_limit_that_nobody_comes_near_does_not_grow,
    test_limit_keeps_its_bounds_whatever_is_measured,
    lambda: _measures_alone(),
)


def _measures_alone() -> None:
    """After a measurement at full load the shortest time is still what a call takes alone."""
    limit = AdaptiveLimit(2, 256)
    upstream = Upstream(limit, 4, 0.05, callers=256)
    upstream.run(MEASURE_EVERY_S * 3)
    assert limit._alone_s == pytest.approx(0.05, rel=0.01)


def test_each_measurement_is_of_calls_that_wait_for_nobody() -> None:
    _measures_alone()


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    def found() -> bool:
        for test in TESTS:
            try:
                test()
            except AssertionError:
                return True
        return False

    with planted(defect):
        assert found()

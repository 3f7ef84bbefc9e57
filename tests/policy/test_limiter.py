"""The rate limiter's policy: by table, in every order, and at its bound.

RELIABILITY FLT-C14: never more than burst + rate * t, whoever comes first.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from proxy_actors.messages import limiter as m
from proxy_actors.messages.limiter import Bucket, Granted, Limited, Take
from proxy_actors.policy.limiter import (
    LOOK_INTERVAL_S,
    OTHERS,
    SWEEP_INTERVAL_S,
    LimiterPolicy,
)
from tests.defects import Defect, planted
from tests.policy.limiter_model import LimiterSubject
from tests.policy.search import Findings, search

A = Bucket("rule", "a", rate=2.0, burst=4)
B = Bucket("rule", "b", rate=2.0, burst=4)


def take(policy: LimiterPolicy, now_s: float, *buckets: Bucket, tokens: int = 1) -> Any:
    return policy.handle(Take(buckets, tokens), now_s)[0]


def test_new_bucket_is_full() -> None:
    policy = LimiterPolicy(10)
    assert [take(policy, 0.0, A) for _ in range(4)] == [Granted()] * 4
    assert take(policy, 0.0, A) == Limited(A, 0, 0.5)


def test_tokens_flow_in_at_the_rate_up_to_the_burst() -> None:
    policy = LimiterPolicy(10)
    take(policy, 0.0, A, tokens=4)
    assert take(policy, 1.0, A, tokens=3) == Limited(A, 2, 0.5)
    assert take(policy, 1.5, A, tokens=3) == Granted()
    assert take(policy, 100.0, A, tokens=5) == Limited(A, 4, math.inf)


def test_take_is_granted_whole_or_not_at_all() -> None:
    policy = LimiterPolicy(10)
    take(policy, 0.0, B, tokens=4)
    assert take(policy, 0.0, A, B) == Limited(B, 0, 0.5)
    assert take(policy, 0.0, A, tokens=4) == Granted(), "the refused take has drawn from A"


def test_refusal_names_the_bucket_that_is_last() -> None:
    policy = LimiterPolicy(10)
    take(policy, 0.0, A, tokens=2)
    take(policy, 0.0, B, tokens=4)
    assert take(policy, 0.0, A, B, tokens=3) == Limited(B, 0, 1.5)


def test_bucket_named_twice_gives_twice() -> None:
    policy = LimiterPolicy(10)
    assert take(policy, 0.0, A, A, tokens=2) == Granted()
    assert take(policy, 0.0, A) == Limited(A, 0, 0.5)


def test_tokens_stay_when_the_tier_changes() -> None:
    policy = LimiterPolicy(10)
    take(policy, 0.0, A, tokens=4)
    gold = Bucket("rule", "a", rate=10.0, burst=100)
    assert take(policy, 1.0, gold, tokens=3) == Limited(gold, 2, 0.1)
    bronze = Bucket("rule", "a", rate=1.0, burst=1)
    assert take(policy, 100.0, bronze, tokens=2) == Limited(bronze, 1, math.inf)


def test_tokens_are_counted_by_rule() -> None:
    """What is refused takes none, from no bucket."""
    policy = LimiterPolicy(10)
    other = Bucket("other", "a", rate=1.0, burst=2)
    take(policy, 0.0, A, other, tokens=2)
    take(policy, 0.0, A)
    take(policy, 0.0, A, other)
    take(policy, 0.0, B)
    assert policy.gauges().taken == {A.rule: 4, "other": 2}


def test_full_bucket_is_forgotten() -> None:
    policy = LimiterPolicy(10)
    wake = policy.handle(Take((A,), 4), 0.0)[1]
    assert wake == m.Wake(SWEEP_INTERVAL_S, 1)
    assert policy.gauges().buckets == 1
    assert policy.handle(m.BucketSweepDue(1), SWEEP_INTERVAL_S) == []
    assert policy.gauges().buckets == 0


def test_sweep_goes_on_while_a_bucket_is_not_full() -> None:
    policy = LimiterPolicy(10)
    slow = Bucket("slow", "a", rate=0.1, burst=4)
    policy.handle(Take((slow,), 4), 0.0)
    assert policy.handle(m.BucketSweepDue(1), SWEEP_INTERVAL_S) == [m.Wake(SWEEP_INTERVAL_S, 2)]
    assert policy.handle(m.BucketSweepDue(1), 100.0) == [], "a stale sweep"


def test_keys_beyond_the_bound_share_a_bucket() -> None:
    """Whoever invents keys gets no new buckets by it."""
    policy = LimiterPolicy(2)
    take(policy, 0.0, A, tokens=4)
    take(policy, 0.0, B, tokens=4)
    invented = [Bucket("rule", f"x{n}", rate=2.0, burst=4) for n in range(100)]
    answers = [take(policy, 0.0, bucket) for bucket in invented]
    assert [isinstance(x, Granted) for x in answers] == [True] * 4 + [False] * 96
    assert take(policy, 0.0, A) == Limited(A, 0, 0.5), "its level was forgotten"
    assert policy.gauges().buckets == 3
    assert policy.gauges().shared == 100


def test_place_of_a_bucket_that_is_full_again_is_given_away() -> None:
    policy = LimiterPolicy(1)
    take(policy, 0.0, A, tokens=4)
    assert take(policy, 0.1, B, tokens=4) == Granted()
    assert policy.gauges().shared == 1
    assert take(policy, 0.1 + LOOK_INTERVAL_S * 2, B, tokens=4) == Granted()
    assert policy.gauges().shared == 1
    assert OTHERS.startswith("_")


def test_thousand_at_the_boundary_get_what_is_there() -> None:
    policy = LimiterPolicy(10)
    bucket = Bucket("rule", "a", rate=100.0, burst=50)
    granted = [isinstance(take(policy, n / 1000, bucket), Granted) for n in range(1000)]
    assert sum(granted) == 50 + 99


def explore(bound: int) -> Findings:
    return search(lambda: LimiterSubject(bound))


def test_every_order_of_takes_keeps_the_rule() -> None:
    findings = explore(bound=10)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 900


DEFECTS = [
    Defect("granted a token too much", LimiterPolicy, "_take",
           "if level.tokens < wanted[id(level)]", "if level.tokens <= wanted[id(level)] - 1"),
    Defect("drawn from the first only", LimiterPolicy, "_take",
           "for level in levels:\n        level.tokens -= tokens",
           "for level in levels[:1]:\n        level.tokens -= tokens"),
    Defect("drawn when refused", LimiterPolicy, "_take",
           "self._limited += 1", "self._limited += 1; levels[0].tokens -= tokens"),
    Defect("the first late one is named", LimiterPolicy, "_take",
           "max(late, key=lambda row: row[0])", "late[0]"),
    Defect("twice the same counts once", LimiterPolicy, "_take",
           "wanted[id(level)] = wanted.get(id(level), 0) + tokens", "wanted[id(level)] = tokens"),
    Defect("every bucket is forgotten", LimiterPolicy, "_forget_full",
           "if level.tokens >= level.burst", "if True"),
    Defect("two sweeps", LimiterPolicy, "_arm",
           "if self._armed or not self._levels", "if not self._levels"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert explore(bound=10).violation is not None

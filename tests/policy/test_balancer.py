"""Which endpoint gets a session: every state of a few endpoints, and the shares of many choices.

RELIABILITY 1.5; FLT-N16, N19.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest

from proxy_actors.options import Balance
from proxy_actors.policy.balancer import (
    UNKNOWN_LOAD,
    Balancer,
    BalanceLimits,
    chooser_of,
    load_of,
)
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.peak_ewma import PENALTY_S, PeakEwma

MANY = 6000
KINDS = ("takes", "serves", "drained", "down")


def endpoints(*weights: int, backups: int = 0) -> list[EndpointState]:
    made = [EndpointState(f"e{i}", weight, latency=PeakEwma()) for i, weight in enumerate(weights)]
    return [*made, *(EndpointState(f"b{i}", backup=True) for i in range(backups))]


def balancer(
    states: Sequence[EndpointState],
    balance: Balance = Balance.ROUND_ROBIN,
    limits: BalanceLimits = BalanceLimits(),
) -> Balancer:
    return Balancer(states, chooser_of(balance, random.Random(1).random), limits)


def chosen(subject: Balancer, times: int = MANY, now_s: float = 0.0) -> Counter[str]:
    counts: Counter[str] = Counter()
    for n in range(times):
        state = subject.choose(f"key-{n}", now_s)
        assert state is not None
        counts[state.name] += 1
    return counts


# Who is used at all.


@pytest.mark.parametrize("balance", list(Balance))
def test_in_every_state_one_is_chosen_that_may_be(balance: Balance) -> None:
    """All states of three endpoints and a backup: takes, serves only, or neither; all tried.

    What the operator took out serves as well, and is never chosen.
    """
    reached: Counter[str] = Counter()
    for percent, *kinds in product((0.0, 50.0, 100.0), *[KINDS] * 4):
        states = endpoints(1, 2, 3, backups=1)
        for state, kind in zip(states, kinds):
            state.drained = kind == "drained"
            state.become(kind == "takes", kind != "down", 1.0)
        subject = balancer(states, balance, BalanceLimits(panic_percent=percent))
        *primary, backup = states
        primary = [x for x in primary if not x.drained]
        taking = [x for x in primary if x.takes]
        if backup.takes or len(taking) * 100 >= percent * len(primary):
            allowed, why = taking or [x for x in [backup] if x.takes], "normal"
        else:
            allowed, why = [x for x in primary if x.serves], "panic"
        for tried in product((False, True), repeat=4):
            names = {x.name for x, was in zip(states, tried) if was}
            found = subject.choose("key", 2.0, names)
            others = [x for x in allowed if x.name not in names]
            assert (found is None) == (not allowed)
            assert found is None or found in (others or allowed)
            reached[why if found else "none"] += 1
    assert reached.keys() == {"normal", "panic", "none"}


def test_backup_is_used_only_while_nobody_else_takes_sessions() -> None:
    states = endpoints(1, 1, backups=1)
    assert chosen(balancer(states)).keys() == {"e0", "e1"}
    states[0].become(False, True, 1.0)
    assert chosen(balancer(states)).keys() == {"e1"}
    states[1].become(False, True, 1.0)
    assert chosen(balancer(states)).keys() == {"b0"}


def test_one_of_two_that_is_out_is_no_panic_and_two_of_three_are() -> None:
    for count, out, expected in ((2, 1, {"e0"}), (3, 2, {"e0", "e1", "e2"})):
        states = endpoints(*[1] * count)
        for state in states[-out:]:
            state.become(False, True, 1.0)
        assert chosen(balancer(states)).keys() == expected


# How they are chosen.


def test_round_robin_goes_by_weight_and_spreads_evenly() -> None:
    """The sequence of nginx's smooth weights: five, one, one."""
    subject = balancer(endpoints(5, 1, 1))
    order = [subject.choose("", 0.0) for _ in range(7)]
    assert [x.name for x in order if x] == ["e0", "e0", "e1", "e0", "e2", "e0", "e0"]


def test_least_pending_counts_calls_for_the_weight_and_takes_turns_among_equals() -> None:
    states = endpoints(1, 1, 4)
    subject = balancer(states, Balance.LEAST_PENDING)
    for _ in range(600):
        state = subject.choose("", 0.0)
        assert state is not None
        state.pending += 1
    assert [x.pending for x in states] == [100, 100, 400]
    assert chosen(balancer(endpoints(1, 1), Balance.LEAST_PENDING))["e0"] == MANY / 2


def test_two_choices_ask_a_slow_one_less() -> None:
    states = endpoints(1, 1, 1)
    for state, seconds in zip(states, (0.01, 0.01, 1.0)):
        assert state.latency is not None
        state.latency.observe(seconds, 0.0)
    counts = chosen(balancer(states, Balance.TWO_CHOICES))
    assert counts["e2"] == 0  # it loses to either of the others
    assert counts["e0"] == pytest.approx(MANY / 2, rel=0.1)


def test_two_choices_ask_one_that_fails_fast_less_than_one_that_is_slow() -> None:
    """FLT-N19: a failure counts as a slow answer."""
    states = endpoints(1, 1)
    for state in states:
        assert state.latency is not None
    states[0].latency.observe(0.05, 0.0)  # type: ignore[union-attr]
    states[1].latency.observe(0.001, 0.0)  # type: ignore[union-attr]
    states[1].latency.fail(0.0)  # type: ignore[union-attr]
    assert chosen(balancer(states, Balance.TWO_CHOICES))["e1"] == 0


def test_unknown_endpoint_gets_one_call_and_no_flood() -> None:
    new, old = endpoints(1, 1)
    assert old.latency is not None
    old.latency.observe(0.5, 0.0)
    assert load_of(new, 0.0) == 0.0
    new.pending = 1
    assert load_of(new, 0.0) > UNKNOWN_LOAD > load_of(old, 0.0)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3)])
def test_hash_shares_keys_by_weight(weights: tuple[int, ...]) -> None:
    counts = chosen(balancer(endpoints(*weights), Balance.HASH))
    for n, weight in enumerate(weights):
        assert counts[f"e{n}"] == pytest.approx(MANY * weight / sum(weights), rel=0.1)


def test_hash_moves_the_keys_of_one_that_is_out_and_no_others() -> None:
    states = endpoints(1, 1, 1, 1)
    subject = balancer(states, Balance.HASH)
    before = {n: subject.choose(f"key-{n}", 0.0) for n in range(1000)}
    states[2].become(False, False, 1.0)
    for n, state in before.items():
        after = subject.choose(f"key-{n}", 2.0)
        assert after is not states[2]
        assert state is states[2] or after is state


# Slow start.


@pytest.mark.parametrize("balance", [Balance.ROUND_ROBIN, Balance.LEAST_PENDING, Balance.HASH])
def test_endpoint_that_is_back_gets_more_by_and_by(balance: Balance) -> None:
    states = endpoints(1, 1)
    subject = balancer(states, balance, BalanceLimits(slow_start_s=100.0))
    assert subject.weight_of(states[0], 0.0) == 1.0  # never at the start of the process
    states[0].become(False, True, 5.0)
    states[0].become(True, True, 10.0)
    weights = [subject.weight_of(states[0], now_s) for now_s in (10.0, 60.0, 110.0, 500.0)]
    assert weights == [0.1, 0.5, 1.0, 1.0]
    if balance is Balance.LEAST_PENDING:
        states[1].pending = 5
        assert chosen(subject, 10, 10.0)["e1"] == 10 and chosen(subject, 10, 60.0)["e0"] == 10
        return
    early = chosen(subject, now_s=10.0)["e0"] / MANY
    later = chosen(subject, now_s=60.0)["e0"] / MANY
    assert early == pytest.approx(0.1 / 1.1, rel=0.15) and later == pytest.approx(1 / 3, rel=0.1)


# The average.


def test_average_jumps_up_at_once_and_comes_down_slowly() -> None:
    average = PeakEwma(decay_s=10.0)
    assert not average.known and average.value_s(0.0) == 0.0
    average.observe(0.1, 0.0)
    average.observe(2.0, 0.0)
    assert average.value_s(0.0) == 2.0
    average.observe(0.1, 10.0)
    assert average.value_s(10.0) == pytest.approx(2.0 / 2.71828 + 0.1 * (1 - 1 / 2.71828), rel=1e-3)
    assert average.value_s(100.0) < 0.001  # who is not asked is tried again some time


def test_failure_counts_as_a_slow_answer_or_as_the_server_says() -> None:
    average = PeakEwma()
    average.fail(0.0)
    assert average.value_s(0.0) == PENALTY_S
    average.fail(0.0, 60.0)
    assert average.value_s(0.0) == 60.0
    average.observe(0.0, -5.0)  # a clock that goes back changes nothing by itself
    assert average.value_s(0.0) <= 60.0

"""Which children serve all sessions, rule by rule; the interplay is searched elsewhere."""

from __future__ import annotations

import pytest

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.stdio_shared_children import (
    PROBE_RETRY_S,
    STEADY_S,
    TAKE_SWEEP_S,
    SharedChildrenLimits,
    SharedChildrenMessage,
    SharedChildrenPolicy,
)
from tests.policy.stdio_frames import DESCRIBED

BACKOFF = BackoffLimits(base_s=1.0, cap_s=4.0, failures_max=2)
POOL = SharedChildrenLimits(2, 2, BACKOFF)
SHARED = SharedChildrenLimits(1, 2, BACKOFF)
UNAVAILABLE = Reason.UPSTREAM_UNAVAILABLE


class Bench:
    """A policy that names its children 1, 2, 3 and always draws one half."""

    def __init__(self, limits: SharedChildrenLimits = POOL) -> None:
        self.now_s = 100.0
        self.policy = SharedChildrenPolicy(limits, str, lambda: 0.5)
        self.wakes: list[e.WakeRespawn] = []
        self.sweeps: list[e.WakeTakeSweep] = []
        self.began = self.policy.begin()

    def tell(self, message: SharedChildrenMessage) -> list[ChildrenEffect]:
        """Timers and names are told apart and not among the effects."""
        effects = self.policy.handle(message, self.now_s)
        self.wakes += [effect for effect in effects if isinstance(effect, e.WakeRespawn)]
        self.sweeps += [effect for effect in effects if isinstance(effect, e.WakeTakeSweep)]
        self.named = [effect.child for effect in effects if isinstance(effect, e.NameChild)]
        apart = e.WakeRespawn | e.WakeTakeSweep | e.NameChild
        return [effect for effect in effects if not isinstance(effect, apart)]

    def take(self, exchange_id: int, wait_s: float = 30.0) -> list[ChildrenEffect]:
        return self.tell(m.TakeChild(exchange_id, self.now_s + wait_s))

    def ready(self, *children: str) -> None:
        for child in children:
            self.tell(m.ProcessReady(child, DESCRIBED))

    def ring(self) -> list[ChildrenEffect]:
        """Let the backoff be over."""
        self.now_s += self.wakes[-1].after_s
        return self.tell(m.RespawnDue(self.wakes[-1].generation))

    def sweep(self, after_s: float = TAKE_SWEEP_S) -> list[ChildrenEffect]:
        self.now_s += after_s
        return self.tell(m.TakeSweepDue(self.sweeps[-1].generation))


def refusals(effects: list[ChildrenEffect]) -> list[tuple[int, Reason, float]]:
    found = [effect for effect in effects if isinstance(effect, e.RefuseChild)]
    return [(effect.exchange_id, effect.reason, effect.retry_after_s) for effect in found]


# POOL: a child for each call.


def test_children_are_started_ahead() -> None:
    assert [x for x in Bench().began if isinstance(x, e.StartProcess)] == [
        e.StartProcess("1"), e.StartProcess("2")
    ]


def test_each_call_has_a_child_to_itself() -> None:
    bench = Bench()
    bench.ready("1", "2")
    (first,), (second,) = bench.take(7), bench.take(8)
    assert {first, second} == {e.GiveChild(7, "2"), e.GiveChild(8, "1")}
    assert bench.take(9) == []


@pytest.mark.parametrize("end", [m.CallEnded("1", 7), m.ReleaseChild(7)])
def test_who_waits_gets_the_child_that_is_given_back(end: SharedChildrenMessage) -> None:
    bench = Bench()
    bench.ready("1")
    bench.take(7)
    bench.take(8)
    bench.take(9)
    assert bench.tell(end) == [e.GiveChild(8, "1")]


def test_child_is_given_back_once() -> None:
    """A call that fails is told by its child and by its exchange."""
    bench = Bench()
    bench.ready("1")
    bench.take(7)
    bench.tell(m.CallEnded("1", 7))
    assert bench.take(8) == [e.GiveChild(8, "1")]
    assert bench.tell(m.ReleaseChild(7)) == []
    assert bench.take(9) == []


def test_who_has_given_up_waiting_gets_no_child() -> None:
    bench = Bench()
    bench.take(7)
    bench.take(8)
    bench.tell(m.ReleaseChild(7))
    assert bench.tell(m.ProcessReady("1", DESCRIBED))[-1] == e.GiveChild(8, "1")


def test_who_waits_too_long_is_refused() -> None:
    """FLT-U14: a slow start is waited for, but not for ever."""
    bench = Bench()
    bench.take(7, wait_s=0.4)
    bench.take(8, wait_s=9.0)
    assert refusals(bench.sweep()) == [(7, Reason.POOL_EXHAUSTED, 1.0)]
    assert bench.sweeps[-1].generation == 2


def test_more_than_may_wait_are_refused() -> None:
    bench = Bench()
    bench.take(7)
    bench.take(8)
    assert refusals(bench.take(9)) == [(9, Reason.OVERLOADED, 1.0)]


def test_free_child_is_given_even_where_nobody_may_wait() -> None:
    bench = Bench(SharedChildrenLimits(1, 0, BACKOFF))
    assert refusals(bench.take(7)) == [(7, Reason.OVERLOADED, 1.0)]
    bench.ready("1")
    assert bench.take(8) == [e.GiveChild(8, "1")]


def test_child_that_ends_is_given_to_nobody() -> None:
    bench = Bench()
    bench.ready("1", "2")
    bench.tell(m.ProcessGone("2", "killed"))
    assert bench.take(7) == [e.GiveChild(7, "1")]
    assert bench.take(8) == []


def test_call_that_ends_after_its_child_frees_nothing() -> None:
    bench = Bench()
    bench.ready("1", "2")
    bench.take(7)
    bench.tell(m.ProcessGone("2", "killed"))
    bench.tell(m.CallEnded("2", 7))
    bench.take(8)
    assert bench.take(9) == []


# Starting.


def test_who_asks_before_the_first_start_waits() -> None:
    """FLT-U14."""
    bench = Bench(SHARED)
    assert bench.tell(m.DescribeServer()) == []
    assert bench.tell(m.ProcessReady("1", DESCRIBED)) == [e.AnswerDescribed(DESCRIBED)]
    assert bench.tell(m.DescribeServer()) == [e.AnswerDescribed(DESCRIBED)]


def test_process_that_only_runs_is_not_ready() -> None:
    bench = Bench(SHARED)
    assert bench.tell(m.ProcessReady("1")) == []
    assert not bench.policy.ready


def test_everybody_is_refused_at_once_while_a_backoff_is_waited_out() -> None:
    """FLT-U3: and those that wait when the last child ends."""
    bench = Bench(SHARED)
    bench.take(7)
    effects = bench.tell(m.ProcessGone("1", "exit 1"))
    assert effects[0] == e.FailDescribed(UNAVAILABLE, "exit 1", 0.5)
    assert refusals(effects) == [(7, UNAVAILABLE, 0.5)]
    bench.now_s += 0.25
    assert refusals(bench.take(8)) == [(8, UNAVAILABLE, 0.25)]
    text = "the server process does not start"
    assert bench.tell(m.DescribeServer()) == [e.FailDescribed(UNAVAILABLE, text, 0.25)]


def test_probe_is_waited_for_until_the_budget_is_spent() -> None:
    """FLT-U3: then the upstream is down, and nobody waits for it."""
    bench = Bench(SHARED)
    bench.tell(m.ProcessGone("1", "exit 1"))
    assert bench.ring() == [e.StartProcess("2")]
    assert bench.take(7) == []
    assert refusals(bench.tell(m.ProcessGone("2", "exit 1"))) == [(7, UNAVAILABLE, 1.0)]
    assert bench.ring() == [e.StartProcess("3")]
    assert refusals(bench.take(8)) == [(8, UNAVAILABLE, PROBE_RETRY_S)]
    assert isinstance(bench.tell(m.DescribeServer())[0], e.FailDescribed)
    bench.ready("3")
    assert bench.take(9) == [e.GiveChild(9, "3")]


def test_calls_of_shared_mode_find_a_child_that_starts_until_the_budget_is_spent() -> None:
    """They are held back at it; when the budget is spent, only one that is ready is found."""
    bench = Bench(SHARED)
    assert e.NameChild("1") in bench.began
    bench.tell(m.ProcessGone("1", "exit 1"))
    bench.ring()
    assert bench.named == ["2"]
    bench.tell(m.ProcessGone("2", "exit 1"))
    bench.ring()
    assert bench.named == []
    bench.tell(m.ProcessReady("3", DESCRIBED))
    assert bench.named == ["3"]


def test_one_child_is_tried_until_it_is_ready_then_all_are_started() -> None:
    """FLT-U3: one probe per backoff, however large the pool."""
    bench = Bench()
    bench.tell(m.ProcessGone("1", "exit 1"))
    bench.tell(m.ProcessGone("2", "exit 1"))
    assert bench.ring() == [e.StartProcess("3")]
    assert bench.tell(m.ProcessReady("3", DESCRIBED))[-1] == e.StartProcess("4")


def test_child_is_replaced_while_others_serve() -> None:
    bench = Bench()
    bench.ready("1", "2")
    assert bench.tell(m.ProcessGone("1", "killed")) == []
    counts = bench.policy.counts
    assert (counts.started, counts.crashed, counts.restarted) == (2, 1, 0)
    assert bench.ring() == [e.StartProcess("3")]
    assert (counts.started, counts.crashed, counts.restarted) == (3, 1, 1)
    bench.tell(m.ProcessGone("1", "killed"))
    assert counts.crashed == 1, "it was gone already"


def test_children_that_end_together_are_one_failure() -> None:
    """A machine that kills them all is not down at the first try."""
    bench = Bench()
    bench.ready("1", "2")
    bench.tell(m.ProcessGone("1", "killed"))
    bench.tell(m.ProcessGone("2", "killed"))
    assert len(bench.wakes) == 1
    bench.ring()
    assert bench.take(7) == []


def test_child_that_has_lived_for_a_while_was_no_failure_to_start() -> None:
    bench = Bench(SHARED)
    for number in range(1, 5):
        bench.ready(str(number))
        bench.now_s += STEADY_S
        bench.tell(m.ProcessGone(str(number), "killed"))
        bench.ring()
    assert {wake.after_s for wake in bench.wakes} == {0.5}


def test_child_that_ends_soon_after_it_was_ready_is_a_failure() -> None:
    bench = Bench(SHARED)
    for number in range(1, 5):
        bench.ready(str(number))
        bench.tell(m.ProcessGone(str(number), "killed"))
        bench.ring()
    assert [wake.after_s for wake in bench.wakes] == [0.5, 1.0, 2.0, 2.0]


def test_stale_timers_do_nothing() -> None:
    bench = Bench(SHARED)
    bench.take(7, wait_s=0.0)
    assert bench.tell(m.TakeSweepDue(0)) == []
    bench.tell(m.ProcessGone("1", "exit 1"))
    assert bench.tell(m.RespawnDue(0)) == []


# Draining.


def test_drain_refuses_who_waits_and_who_asks() -> None:
    bench = Bench()
    bench.take(7)
    effects = bench.tell(DrainUpstream())
    assert refusals(effects) == [(7, Reason.DRAINING, 5.0)]
    told = e.FailDescribed(Reason.DRAINING, "the upstream is being drained", 5.0)
    assert [effects[0], *effects[2:]] == [told, e.DrainChild("1"), e.DrainChild("2")]
    assert refusals(bench.take(8)) == [(8, Reason.DRAINING, 5.0)]
    assert bench.tell(m.DescribeServer()) == [told]


def test_drain_is_over_when_every_child_has_drained_or_ended() -> None:
    bench = Bench()
    bench.ready("1", "2")
    bench.tell(DrainUpstream())
    assert bench.tell(m.ProcessDrained("1")) == []
    assert bench.tell(m.ProcessGone("2", "killed")) == [e.ChildrenDrained()]
    assert bench.ring() == []
    assert bench.tell(DrainUpstream()) == []


def test_how_starting_goes_is_not_said_before_anything_has_come() -> None:
    bench = Bench(SHARED)
    assert bench.policy.described().verdict is Verdict.UNKNOWN
    bench.ready("1")
    assert bench.policy.described().verdict is Verdict.WELL
    bench.tell(m.ProcessGone("1", "it ended"))
    assert bench.policy.described() == m.StartDescribed(Verdict.FAILED, "it ended")
    bench.ring()
    assert bench.policy.described().verdict is Verdict.FAILED
    bench.ready("2")
    assert bench.policy.described().verdict is Verdict.WELL

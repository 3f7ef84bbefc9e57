"""Which child serves whom in SESSION mode, rule by rule; the interplay is searched elsewhere."""

from __future__ import annotations

import msgspec

from proxy_actors.errors import Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.health import Verdict
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio_effects import ChildrenEffect
from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.policy.backoff import BackoffLimits
from proxy_actors.policy.stdio_children import (
    FULL_RETRY_S,
    PROBE_RETRY_S,
    STEADY_S,
    ChildrenLimits,
    ChildrenMessage,
    ChildrenPolicy,
)
from tests.policy.stdio_frames import ended

LIMITS = ChildrenLimits(2, 1, BackoffLimits(base_s=1.0, cap_s=4.0, failures_max=2))
IDLE_S = 0.25
RESTING = msgspec.structs.replace(LIMITS, idle_stop_s=IDLE_S)
DOES_NOT_START = "the server process does not start"


class Bench:
    """A policy that names its children 1, 2, 3 and always draws one half."""

    def __init__(self, limits: ChildrenLimits = LIMITS) -> None:
        self.now_s = 100.0
        self.policy = ChildrenPolicy(limits, str, lambda: 0.5)
        self.wakes: list[e.WakeRespawn] = []
        self.looks: list[e.WakeIdle] = []
        assert self._noted(self.policy.begin()) == [e.StartProcess("1")]

    def tell(self, message: ChildrenMessage) -> list[ChildrenEffect]:
        effects = self._noted(self.policy.handle(message, self.now_s))
        self.wakes += [effect for effect in effects if isinstance(effect, e.WakeRespawn)]
        return effects

    def take(self, exchange_id: int, owner: str = "") -> list[ChildrenEffect]:
        return self.tell(m.TakeChild(exchange_id, self.now_s + 30.0, Owner(owner)))

    def ring(self) -> list[ChildrenEffect]:
        """Let the backoff be over."""
        self.now_s += self.wakes[-1].after_s
        return self.tell(m.RespawnDue(self.wakes[-1].generation))

    def look(self) -> list[ChildrenEffect]:
        """Let it be looked whether anybody is there."""
        self.now_s += self.looks[-1].after_s
        return self.tell(m.IdleDue(self.looks[-1].generation))

    def _noted(self, effects: list[ChildrenEffect]) -> list[ChildrenEffect]:
        self.looks += [effect for effect in effects if isinstance(effect, e.WakeIdle)]
        return [effect for effect in effects if not isinstance(effect, e.WakeIdle)]


def refusal(exchange_id: int, reason: Reason, text: str, after_s: float) -> list[ChildrenEffect]:
    return [e.RefuseChild(exchange_id, reason, text, after_s)]


def test_spare_is_given_once_and_replaced() -> None:
    """MCP-I-7: a process that gets a client's capabilities is that client's alone."""
    bench = Bench()
    assert bench.take(7) == [e.GiveChild(7, "1"), e.StartProcess("2")]
    assert bench.take(8) == [e.GiveChild(8, "2"), e.StartProcess("3")]


def test_handshake_that_came_to_nothing_ends_its_child() -> None:
    bench = Bench()
    bench.take(7)
    assert bench.tell(m.ReleaseChild(7)) == [e.StopProcess("1")]
    assert bench.tell(m.ReleaseChild(7)) == []


def test_child_of_an_ended_session_is_stopped() -> None:
    bench = Bench()
    bench.take(7)
    bench.tell(m.BindChild("1", "session"))
    assert bench.tell(ended("session", "1")) == [e.StopProcess("1")]


def test_session_that_ends_before_its_child_is_bound_leaves_no_child() -> None:
    """It made room for another one while its answer was on its way."""
    bench = Bench()
    bench.take(7)
    assert bench.tell(ended("session", "1")) == [e.StopProcess("1")]
    assert bench.tell(m.BindChild("1", "session")) == [e.LoseSession("session")]


def test_session_of_a_child_that_ends_is_lost() -> None:
    """FLT-U1: its client initializes anew."""
    bench = Bench()
    bench.take(7)
    bench.tell(m.BindChild("1", "session"))
    assert bench.tell(m.ProcessGone("1", "killed")) == [e.LoseSession("session")]
    assert bench.take(8)[0] == e.GiveChild(8, "2")


def test_session_of_a_child_that_ended_before_it_was_bound_is_lost() -> None:
    bench = Bench()
    bench.take(7)
    bench.tell(m.ProcessGone("1", "killed"))
    assert bench.tell(m.BindChild("1", "session")) == [e.LoseSession("session")]


def test_more_children_than_the_bound_are_refused() -> None:
    """FLT-U16: 503, no fork bomb; here two sessions, and one child more for a handshake."""
    bench = Bench()
    for number in "123":
        bench.take(int(number))
        bench.tell(m.BindChild(number, f"session {number}"))
    text = "too many sessions have a server process"
    assert bench.take(9) == refusal(9, Reason.OVERLOADED, text, FULL_RETRY_S)


def test_client_with_many_handshakes_leaves_some_to_others() -> None:
    """Whether they come to something or not: till its children have ended they are its own."""
    bench = Bench(ChildrenLimits(48, 16))
    for number in range(1, 58):
        assert bench.take(number, "one")[0] == e.GiveChild(number, str(number))
        bench.tell(m.ReleaseChild(number))
    text = "this client has its share of the server processes"
    assert bench.take(58, "one") == refusal(58, Reason.RATE_LIMITED, text, FULL_RETRY_S)
    for number in range(58, 64):
        assert bench.take(number, "two")[0] == e.GiveChild(number, str(number))
    assert isinstance(bench.take(64, "two")[0], e.RefuseChild)
    assert bench.take(64, "three")[0] == e.GiveChild(64, "64")
    bench.tell(m.ProcessGone("1", "stopped"))
    assert isinstance(bench.take(65, "one")[0], e.RefuseChild), "what is free is for others"
    assert bench.take(65, "four")[0] == e.GiveChild(65, "65")


def test_child_counts_until_it_has_ended() -> None:
    """FLT-U16: servers that ignore the end of their input take seconds to be killed."""
    bench = Bench()
    for number in "123":
        bench.take(int(number))
        bench.tell(m.ReleaseChild(int(number)))
    assert isinstance(bench.take(4)[0], e.RefuseChild)
    bench.tell(m.ProcessGone("2", "stopped"))
    assert bench.take(5)[0] == e.GiveChild(5, "4")


def test_end_of_a_child_that_was_stopped_is_no_failure() -> None:
    bench = Bench()
    bench.take(7)
    bench.tell(m.ReleaseChild(7))
    assert bench.tell(m.ProcessGone("1", "stopped")) == []
    assert bench.policy.text != "stopped"


def test_spare_that_ends_is_replaced_after_a_backoff() -> None:
    """FLT-U2: and whoever asks meanwhile is told when to come back."""
    bench = Bench()
    assert bench.tell(m.ProcessGone("1", "exit 1")) == [e.WakeRespawn(0.5, 1)]
    bench.now_s += 0.25
    assert bench.take(7) == refusal(7, Reason.UPSTREAM_UNAVAILABLE, DOES_NOT_START, 0.25)
    bench.now_s -= 0.25
    assert bench.ring() == [e.StartProcess("2")]


def counts(bench: Bench) -> tuple[int, int, int]:
    """How many were started, have crashed, were started in the place of one that had."""
    figures = bench.policy.counts
    return figures.started, figures.crashed, figures.restarted


def test_crashes_and_restarts_are_counted() -> None:
    """The end of a child that was asked to end is no crash; a session's is not replaced."""
    bench = Bench()
    assert counts(bench) == (1, 0, 0)
    bench.tell(m.ProcessGone("1", "exit 1"))
    assert counts(bench) == (1, 1, 0)
    bench.ring()
    assert counts(bench) == (2, 1, 1)
    bench.tell(m.ProcessReady("2"))
    bench.take(7)
    bench.tell(m.BindChild("2", "key"))
    assert counts(bench) == (3, 1, 1)
    bench.tell(m.ProcessGone("2", "killed"))
    assert counts(bench) == (3, 2, 1)
    bench.take(8)
    bench.tell(m.ReleaseChild(8))
    bench.tell(m.ProcessGone("3", "stopped"))
    assert counts(bench) == (4, 2, 1)
    bench.take(9)
    bench.tell(m.ProcessGone("4", "exit 1"))
    assert counts(bench) == (5, 3, 1), "its place had been taken already"
    assert bench.policy.counts.figures() == {"started": 5, "crashed": 3, "restarted": 1}


def test_backoff_doubles_up_to_its_cap_with_full_jitter() -> None:
    """FLT-U3: always one half of the bound, by this bench's dice."""
    bench = Bench()
    for number in range(1, 6):
        bench.tell(m.ProcessGone(str(number), "exit 1"))
        assert bench.ring() == [e.StartProcess(str(number + 1))]
    assert [wake.after_s for wake in bench.wakes] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_child_that_ends_in_its_handshake_is_a_failure_to_start() -> None:
    """FLT-U2: else clients that try again would start one child after another."""
    bench = Bench()
    bench.take(7)
    assert bench.tell(m.ProcessGone("1", "exit 1")) == [e.WakeRespawn(0.5, 1)]
    assert bench.take(8) == [e.GiveChild(8, "2")]
    assert bench.take(9) == refusal(9, Reason.UPSTREAM_UNAVAILABLE, DOES_NOT_START, 0.5)


def test_one_child_at_a_time_is_tried_until_a_handshake_has_succeeded() -> None:
    """FLT-U3: one probe per backoff."""
    bench = Bench()
    bench.tell(m.ProcessGone("1", "exit 1"))
    bench.ring()
    assert bench.take(7) == [e.GiveChild(7, "2")]
    expected = refusal(8, Reason.UPSTREAM_UNAVAILABLE, DOES_NOT_START, PROBE_RETRY_S)
    assert bench.take(8) == expected
    assert bench.tell(m.BindChild("2", "session")) == [e.StartProcess("3")]
    assert bench.take(9) == [e.GiveChild(9, "3"), e.StartProcess("4")]


def test_probe_is_given_to_nobody_before_it_runs_when_the_budget_is_spent() -> None:
    """FLT-U3: fail fast."""
    bench = Bench()
    bench.tell(m.ProcessGone("1", "exit 1"))
    bench.ring()
    bench.tell(m.ProcessGone("2", "exit 1"))
    bench.ring()
    assert isinstance(bench.take(7)[0], e.RefuseChild)
    bench.tell(m.ProcessReady("3"))
    assert bench.take(8) == [e.GiveChild(8, "3")]


def test_children_that_end_together_are_one_failure() -> None:
    bench = Bench()
    bench.take(7)
    bench.take(8)
    bench.tell(m.ProcessGone("1", "killed"))
    assert bench.tell(m.ProcessGone("2", "killed")) == []
    assert bench.tell(m.ProcessGone("3", "killed")) == []


def test_stale_timer_starts_nothing() -> None:
    bench = Bench()
    bench.tell(m.ProcessGone("1", "exit 1"))
    assert bench.tell(m.RespawnDue(0)) == []


def test_upstream_is_ready_when_its_last_child_has_started() -> None:
    bench = Bench()
    assert (bench.policy.ready, bench.policy.text) == (False, "not tried yet")
    bench.take(7)
    bench.tell(m.ProcessReady("1"))
    assert bench.policy.ready
    bench.tell(m.ProcessGone("2", "exit 1"))
    assert (bench.policy.ready, bench.policy.text) == (False, "exit 1")


def test_upstream_is_ready_while_a_spare_runs_whoever_else_fails() -> None:
    """Nobody would come to take the spare and find out otherwise."""
    bench = Bench()
    bench.take(7)
    bench.tell(m.ProcessReady("2"))
    bench.tell(m.ProcessGone("1", "exit 1"))
    assert bench.policy.ready


def test_drain_waits_for_the_children_that_serve() -> None:
    bench = Bench()
    bench.take(7)
    bench.take(8)
    bench.tell(m.BindChild("1", "session"))
    assert bench.tell(DrainUpstream()) == [e.DrainChild("1"), e.DrainChild("2")]
    text = "the upstream is being drained"
    assert bench.take(9) == refusal(9, Reason.DRAINING, text, FULL_RETRY_S)
    assert bench.tell(m.ProcessDrained("1")) == []
    assert bench.tell(m.ProcessGone("2", "killed"))[-1] == e.ChildrenDrained()
    assert bench.ring() == []
    assert bench.tell(DrainUpstream()) == []


def test_drain_of_an_upstream_without_sessions_is_over_at_once() -> None:
    assert Bench().tell(DrainUpstream()) == [e.ChildrenDrained()]


def test_spare_that_nobody_wants_ends_and_whoever_comes_next_has_another_started() -> None:
    bench = Bench(RESTING)
    bench.tell(m.ProcessReady("1"))
    assert bench.look() == [e.StopProcess("1")]
    assert bench.tell(m.ProcessGone("1", "stopped")) == []
    assert bench.policy.rests and bench.policy.ready
    assert bench.policy.described(bench.now_s).verdict is Verdict.WELL
    assert bench.take(7) == [e.StartProcess("2"), e.GiveChild(7, "2"), e.StartProcess("3")]
    assert bench.take(8) == [e.GiveChild(8, "3"), e.StartProcess("4")]
    assert counts(bench) == (4, 0, 0), "a rest is no crash"


def test_spare_stays_while_there_is_a_session_and_for_a_while_after_it() -> None:
    bench = Bench(RESTING)
    bench.take(7)
    bench.tell(m.BindChild("1", "session"))
    bench.tell(m.ProcessReady("2"))
    assert bench.look() == []
    bench.now_s += IDLE_S / 2
    bench.tell(ended("session", "1"))
    bench.tell(m.ProcessGone("1", "stopped"))
    bench.now_s -= IDLE_S / 2
    assert bench.look() == [], "half of the time"
    assert bench.looks[-1].after_s == IDLE_S / 2
    assert bench.look() == [e.StopProcess("2")]


def test_it_does_not_rest_in_a_backoff() -> None:
    """Else whoever asks next would be told that the process does not start."""
    bench = Bench(RESTING)
    bench.take(7)
    bench.take(8)
    bench.tell(m.ProcessReady("3"))
    bench.tell(m.ProcessGone("1", "exit 1"))
    bench.tell(m.BindChild("2", "session"))
    bench.tell(ended("session", "2"))
    bench.tell(m.ProcessGone("2", "stopped"))
    bench.now_s += IDLE_S
    assert bench.look() == []
    assert bench.ring() == []
    assert bench.look() == [e.StopProcess("3")]


def test_without_the_setting_nobody_looks() -> None:
    assert Bench().looks == []


def test_drain_of_an_upstream_that_rests_is_over_at_once() -> None:
    bench = Bench(RESTING)
    bench.tell(m.ProcessReady("1"))
    bench.look()
    assert bench.tell(DrainUpstream()) == [e.ChildrenDrained()]
    assert isinstance(bench.take(7)[0], e.RefuseChild)


def test_how_starting_goes_is_not_said_before_anything_has_come() -> None:
    bench = Bench()
    assert bench.policy.described(bench.now_s).verdict is Verdict.UNKNOWN
    bench.tell(m.ProcessReady("1"))
    assert bench.policy.described(bench.now_s) == m.StartDescribed(Verdict.WELL)


def test_child_that_starts_where_others_have_ended_is_believed_after_a_while() -> None:
    """FLT-U3: in a crash loop each of them runs for a moment."""
    bench = Bench()
    bench.tell(m.ProcessReady("1"))
    bench.tell(m.ProcessGone("1", "it ended"))
    bench.ring()
    assert bench.policy.described(bench.now_s).verdict is Verdict.FAILED
    bench.tell(m.ProcessReady("2"))
    assert bench.policy.described(bench.now_s).verdict is Verdict.FAILED
    assert bench.policy.described(bench.now_s + STEADY_S).verdict is Verdict.WELL
    bench.tell(m.ProcessGone("2", "it ended"))
    assert bench.policy.described(bench.now_s + STEADY_S).verdict is Verdict.FAILED

"""From what actors tell to what has come since they were last asked."""

from __future__ import annotations

from typing import Any

import pytest

from proxy_actors import metrics
from proxy_actors.messages.lifecycle import ActorState
from proxy_actors.messages.metrics import ProcessFigures, SeenActor
from proxy_actors.metrics import Metric
from proxy_actors.policy.metric_tree import TreeRows, _Kind
from tests.defects import Defect, planted

IDLE = ProcessFigures(0, 0, 0, 0.0, (0, 0, 0), 0)
Told = dict[tuple[Metric, tuple[str, ...]], float]


def actor(
    name: str = "limiter", kind: str = "Limiter", incarnation: int = 1, **said: Any
) -> SeenActor:
    """An actor that has been asked; what it says of its own goes into `detail`."""
    state: dict[str, Any] = {
        "mailbox_depth": 0, "mailbox_age_s": 0.0, "handled": 0, "undelivered": 0,
        "late_replies": 0, "busy_s": 0.0, "turn_s_max": 0.0,
    }  # fmt: skip
    detail = {key: said.pop(key) for key in list(said) if key not in state}
    state |= said
    return SeenActor(
        incarnation, ActorState(name=name, kind=kind, children=(), detail=detail, **state)
    )


def told(
    rows: TreeRows, *actors: SeenActor, complete: bool = True, process: ProcessFigures = IDLE
) -> Told:
    for one in actors:
        rows.add([one])
    made = rows.rows(complete, process, 3)
    assert len({(row.metric, row.labels) for row in made}) == len(made), "told twice"
    return {(row.metric, row.labels): row.values[0] for row in made}


def test_actors_of_a_kind_are_told_together() -> None:
    """What they have in their boxes is added up, of ages and turns the worst counts."""
    one = actor("a", mailbox_depth=2, mailbox_age_s=0.5, turn_s_max=0.02)
    other = actor("b", mailbox_depth=3, mailbox_age_s=0.25, turn_s_max=0.03)
    of = told(TreeRows(True), one, other, actor("c", "Root"))
    assert of[metrics.ACTORS, ("Limiter",)] == 2
    assert of[metrics.ACTOR_MAILBOX, ("Limiter",)] == 5
    assert of[metrics.ACTOR_AGE, ("Limiter",)] == 500
    assert of[metrics.ACTOR_TURN_MAX, ("Limiter",)] == 30
    assert of[metrics.ACTORS, ("Root",)] == 1
    assert of[metrics.PROCESS_GREENLETS, ()] == 3


def test_what_is_counted_is_told_once() -> None:
    """The question of the last flush is a mail that nobody sent."""
    rows = TreeRows(True)
    handled = (metrics.ACTOR_HANDLED, ("Limiter",))
    busy = (metrics.ACTOR_BUSY, ("Limiter",))
    first = told(rows, actor(handled=10, busy_s=0.5))
    assert (first[handled], first[busy]) == (10, 500)
    second = told(rows, actor(handled=15, busy_s=0.75))
    assert (second[handled], second[busy]) == (4, 250)
    assert handled not in told(rows, actor(handled=16, busy_s=0.75)), "nothing has come"


def test_next_incarnation_counts_from_nothing_and_is_a_restart() -> None:
    rows = TreeRows(True)
    handled = (metrics.ACTOR_HANDLED, ("Limiter",))
    restarts = (metrics.ACTOR_RESTARTS, ("Limiter",))
    assert restarts not in told(rows, actor(handled=10))
    after = told(rows, actor(handled=4, incarnation=3))
    assert (after[handled], after[restarts]) == (4, 2)
    assert restarts not in told(rows, actor(handled=5, incarnation=3))


def test_restart_before_the_first_flush_is_told() -> None:
    assert told(TreeRows(True), actor(incarnation=2))[metrics.ACTOR_RESTARTS, ("Limiter",)] == 1


def test_successor_of_the_metrics_actor_tells_nothing_twice() -> None:
    """What others had counted before it came is told as far as it comes after."""
    rows = TreeRows(False)
    process = ProcessFigures(1, 1, 1, 9.0, (5, 0, 0), 7)
    first = told(rows, actor(handled=10, incarnation=4), process=process)
    assert not {x for x in first if x[0].kind is metrics.Kind.COUNTER}
    assert first[metrics.PROCESS_RSS, ()] == 1
    later = ProcessFigures(1, 1, 1, 9.5, (6, 0, 0), 7)
    new = actor("new", "Root", handled=2)
    second = told(rows, actor(handled=13, incarnation=4), new, process=later)
    assert second[metrics.ACTOR_HANDLED, ("Limiter",)] == 2
    assert second[metrics.ACTOR_HANDLED, ("Root",)] == 2
    assert second[metrics.PROCESS_CPU, ()] == 500
    assert second[metrics.PROCESS_GC, ("0",)] == 1
    assert (metrics.PROCESS_LOG_DROPPED, ()) not in second


def test_gauge_of_what_is_gone_is_zero() -> None:
    """Statsd would keep the last one for ever."""
    rows = TreeRows(True)
    streams = (metrics.STREAMS, ("web",))
    stream = actor("upstream/web/call-x", "EventStream", turn_s_max=1.0)
    assert told(rows, stream)[streams] == 1
    for _ in range(2):
        gone = told(rows)
        assert (gone[streams], gone[metrics.ACTOR_TURN_MAX, ("EventStream",)]) == (0, 0)


def test_who_was_not_asked_is_not_counted_anew() -> None:
    """A walk that ran out of time: what an actor had counted before is told once all the same."""
    rows = TreeRows(True)
    handled = (metrics.ACTOR_HANDLED, ("Limiter",))
    told(rows, actor(handled=10, incarnation=2))
    assert handled not in told(rows, complete=False)
    after = told(rows, actor(handled=12, incarnation=2))
    assert after[handled] == 1
    assert (metrics.ACTOR_RESTARTS, ("Limiter",)) not in after


def test_pools_streams_and_children_go_by_their_upstream() -> None:
    pool = {"opening": 1, "idle": 2, "leased": 3, "streaming": 4, "waiting": 5, "stale": 6}
    of = told(
        TreeRows(True),
        actor("upstream/web", "HttpUpstream", reached=None, streams=1),
        actor("upstream/web/pool", "ConnectionPool", **pool),
        actor("upstream/web/call-a", "EventStream"),
        actor("upstream/files", "StdioUpstream", ready=True, started=5, crashed=2, restarted=1),
        actor("upstream/files/child-1-1", "StdioProcess", running=True),
        actor("upstream/files/child-1-2", "StdioProcess", running=True),
        actor("upstream/files/child-1-3", "StdioProcess", running=False),
        actor("upstream/files/child-1-3/call-b", "EventStream"),
    )
    web, files = ("web",), ("files",)
    assert (of[metrics.UPSTREAM_READY, web], of[metrics.UPSTREAM_READY, files]) == (0, 1)
    names = ("OPENING", "IDLE", "LEASED", "STREAMING", "WAITING")
    assert [of[getattr(metrics, f"POOL_{name}"), web] for name in names] == [1, 2, 3, 4, 5]
    assert (of[metrics.STREAMS, web], of[metrics.STREAMS, files]) == (1, 1)
    assert (of[metrics.STDIO_RUNNING, files], of[metrics.STDIO_STARTING, files]) == (2, 1)
    counts = (metrics.STDIO_STARTED, metrics.STDIO_CRASHED, metrics.STDIO_RESTARTED)
    assert [of[metric, files] for metric in counts] == [5, 2, 1]


def test_sessions_limits_and_connections_are_told() -> None:
    rows = TreeRows(True)
    registry = actor("registry", "SessionRegistry", creating=1, live=2, ending=3, uses=4, stale=5)
    limiter = actor(buckets=7, shared=1, taken={"address": 64, "calls": 3}, granted=9, limited=1)
    of = told(rows, registry, limiter, actor("server", "HttpServer", connections=8))
    assert of[metrics.SESSIONS_LIVE, ()] == 2
    assert of[metrics.SESSIONS_USES, ()] == 4
    assert of[metrics.LIMITS_BUCKETS, ()] == 7
    assert of[metrics.HTTP_CONNECTIONS, ()] == 8
    assert of[metrics.LIMITS_TAKEN, ("address",)] == 64
    of = told(rows, actor(buckets=7, shared=1, taken={"address": 128, "calls": 3, "x": 1}))
    assert of[metrics.LIMITS_TAKEN, ("address",)] == 64
    assert of[metrics.LIMITS_TAKEN, ("x",)] == 1
    assert (metrics.LIMITS_TAKEN, ("calls",)) not in of


DEFECTS = [
    Defect("the question counts", _Kind, "add", "before.handled - 1", "before.handled"),
    Defect("gauges stay", TreeRows, "rows", "**dict.fromkeys(self._gauged, 0.0),", ""),
    Defect("the late are new", TreeRows, "rows",
           "self._seen_now if complete else {**self._seen, **self._seen_now}", "self._seen_now"),
    Defect("nothing begins anew", TreeRows, "rows", "self._begin()", "pass"),
    Defect("ages are added up", _Kind, "add",
           "max(self.age_s, state.mailbox_age_s)", "self.age_s + state.mailbox_age_s"),
    Defect("incarnations are one", TreeRows, "_before",
           "before.incarnation == seen.incarnation", "True"),
    Defect("a successor begins at nothing", TreeRows, "_before", "if self._known:", "if True:"),
    Defect("what it tells begins at nothing", TreeRows, "_since",
           "count(present) if self._known else {}", "count(present)"),
    Defect("its restarts count again", TreeRows, "_restarts",
           "seen.incarnation - 1 if self._known else 0", "seen.incarnation - 1"),
    Defect("a first restart is missed", TreeRows, "_restarts",
           "seen.incarnation - 1 if self._known else 0", "0"),
    Defect("streams are told by no table", TreeRows, "add",
           "if state.kind in _DETAILED:", "if state.kind in _GAUGES:"),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """By one of the tests above."""
    tests = [value for name, value in globals().items()
             if name.startswith("test_") and name != "test_planted_defect_is_found"]
    with planted(defect):
        failed = 0
        for test in tests:
            try:
                test()
            except (AssertionError, KeyError):
                failed += 1
    assert failed

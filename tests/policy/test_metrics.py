"""When figures are gathered and sent: every order of flushes, answers and failures."""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.messages import metrics as m
from proxy_actors.policy.metrics import LAG_PROBE_S, MetricsPolicy
from tests.defects import Defect, planted
from tests.policy.metrics_model import MetricsSubject
from tests.policy.search import Findings, search


def explore(rests: bool = False) -> Findings:
    return search(partial(MetricsSubject, rests))


@pytest.mark.parametrize("rests", [False, True])
def test_every_order_keeps_the_rules(rests: bool) -> None:
    findings = explore(rests)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 500


DEFECTS = [
    Defect("two walks at once", MetricsPolicy, "_flush", "not self._describing and", ""),
    Defect("a walk is never over", MetricsPolicy, "handle", "self._describing = False", "pass"),
    Defect("two sinks at once", MetricsPolicy, "_flush", "not self._opening and", ""),
    Defect("an opening is never over", MetricsPolicy, "handle",
           "self._opening = False\n            self._open_at_s = now_s + RETRY_S",
           "self._open_at_s = now_s + RETRY_S"),
    Defect("a sink is never opened anew", MetricsPolicy, "handle", "now_s + REOPEN_S", "1e9"),
    Defect("a failure is tried again at once", MetricsPolicy, "handle",
           "self._open_at_s = now_s + RETRY_S", "self._open_at_s = now_s"),
    Defect("a sink in use is given up", MetricsPolicy, "handle",
           "return [] if self._has_sink else", "self._has_sink = False; return"),
    Defect("sent without a sink", MetricsPolicy, "handle",
           "m.Send(complete) if self._has_sink else m.Forget(complete)", "m.Send(complete)"),
    Defect("asked while a sink is awaited", MetricsPolicy, "_flush", "and not awaited", ""),
    Defect("not asked while another sink is opened", MetricsPolicy, "_flush",
           "self._opening and not self._has_sink", "self._opening"),
    Defect("a missed flush is made up for", MetricsPolicy, "_flush",
           "if self._due_s <= now_s:", "if False:"),
    Defect("said each time", MetricsPolicy, "_unsound", "if self._complained:", "if False:"),
    Defect("well after one flush", MetricsPolicy, "_sounds",
           "self._sound < SOUND_FLUSHES", "False"),
    Defect("never well again", MetricsPolicy, "_sounds",
           "return [m.LogReachable()]", "return []"),
    Defect("a loss does not begin anew", MetricsPolicy, "_unsound", "self._sound = 0", "pass"),
    Defect("said as well without end", MetricsPolicy, "_sounds",
           "self._complained = False", "pass"),
    Defect("each sink has a probe of its own", MetricsPolicy, "handle",
           "[] if self._has_sink else self._probe(now_s)", "self._probe(now_s)"),
    Defect("the clock stops", MetricsPolicy, "_flush",
           "effects: list[MetricsEffect] = [m.WakeFlush(self._due_s - now_s)]", "effects = []"),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert explore().violation is not None


def test_flushes_keep_their_beat() -> None:
    """One that comes a little late does not move those after it."""
    policy = MetricsPolicy(1.0)
    policy.begin(0.0)
    assert policy.handle(m.FlushDue(), 1.25)[0] == m.WakeFlush(0.75)
    assert policy.handle(m.FlushDue(), 2.0)[0] == m.WakeFlush(1.0)


def test_lag_is_how_late_a_probe_is() -> None:
    policy = MetricsPolicy(1.0)
    policy.begin(0.0)
    probe = policy.handle(m.SinkOpened(), 0.0)[-1]
    assert probe == m.WakeLagProbe(LAG_PROBE_S, LAG_PROBE_S)
    lag, following = policy.handle(m.LagProbeDue(LAG_PROBE_S), LAG_PROBE_S + 0.5)
    assert lag == m.NoteLag(0.5)
    assert following == m.WakeLagProbe(LAG_PROBE_S, 2 * LAG_PROBE_S + 0.5)
    assert policy.handle(m.LagProbeDue(9.0), 8.0)[0] == m.NoteLag(0.0)

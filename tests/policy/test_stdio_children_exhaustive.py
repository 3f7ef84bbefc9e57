"""Who gets which child in SESSION mode, through every order of messages.

The search ends when no order leads to a state that was not seen. The second half plants defects,
each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.policy.stdio_children import ChildrenPolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_children_model import (
    RESTING,
    SHARED,
    SPARELESS,
    ChildrenSubject,
)

TWO_AT_A_TIME = partial(ChildrenSubject, 2)
DRAINS = partial(ChildrenSubject, 1, drains=True)
NO_SPARE = partial(ChildrenSubject, 2, drains=True, limits=SPARELESS)
RESTS = partial(ChildrenSubject, 1, drains=True, limits=RESTING)
SHARES = partial(ChildrenSubject, 2, limits=SHARED, owners="ab")
SUBJECTS = {
    "two handshakes at a time": TWO_AT_A_TIME, "drains": DRAINS, "no spare": NO_SPARE,
    "rests": RESTS, "shares": SHARES,
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_children_keep_their_rules_in_every_order_of_messages(name: str) -> None:
    """One session a child, one holder a spare, one probe a backoff, so many and no more."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 1000


POLICY = ChildrenPolicy
DEFECTS = {
    Defect("a spare is handed out twice", POLICY, "_take",
           "self._spare = None", "pass"): TWO_AT_A_TIME,
    Defect("a child is bound to two sessions", POLICY, "_untake",
           "del self._taken[exchange_id]", "pass"): TWO_AT_A_TIME,
    Defect("a child that has gone is bound", POLICY, "_bind",
           "if not self._untake(child):", "self._untake(child)\n    if False:"): TWO_AT_A_TIME,
    Defect("a session without a child is not lost", POLICY, "_bind",
           "effects.append(e.LoseSession(session_key))", "pass"): TWO_AT_A_TIME,
    Defect("a session whose child has gone is not lost", POLICY, "_gone",
           "effects.append(e.LoseSession(session_key))", "pass"): TWO_AT_A_TIME,
    Defect("a released child lives on", POLICY, "_release",
           "self._end(child, effects)", "pass"): TWO_AT_A_TIME,
    Defect("a child is released twice", POLICY, "_release",
           "self._taken.pop(exchange_id, None)", "self._taken.get(exchange_id)"): TWO_AT_A_TIME,
    Defect("the child of an ended session lives on", POLICY, "_session_ended",
           "del self._bound[child]\n        self._end(child, effects)", "pass"): TWO_AT_A_TIME,
    Defect("the child of a session that ended early lives on", POLICY, "_session_ended",
           "elif self._untake(endpoint):", "elif False:"): TWO_AT_A_TIME,
    Defect("children that end do not count", POLICY, "_end",
           "self._ending.add(child)", "pass"): TWO_AT_A_TIME,
    Defect("children that have ended count", POLICY, "_gone",
           "self._ending.discard(child)", "pass"): TWO_AT_A_TIME,
    Defect("one child too many", POLICY, "_take",
           "free <= 0", "free < 0"): TWO_AT_A_TIME,
    Defect("one client may have all children", POLICY, "_take",
           "owner and not may_have_one_more(self._held[owner], free)", "False"): SHARES,
    Defect("the proxy itself has a share", POLICY, "_take",
           "elif owner and not", "elif not"): TWO_AT_A_TIME,
    Defect("what a client had counts as its own for ever", POLICY, "_gone",
           "self._disown(child)", "pass"): SHARES,
    Defect("a child is nobody's once it is to end", POLICY, "_end",
           "self._ending.add(child)", "self._ending.add(child); self._disown(child)"): SHARES,
    Defect("a child is nobody's once it is bound", POLICY, "_bind",
           "self._bound[child] = session_key",
           "self._bound[child] = session_key; self._disown(child)"): SHARES,
    Defect("a spare that fails is not replaced", POLICY, "_gone",
           "self._spare = None\n        self.counts.crash()\n"
           "        self._failed(text, now_s, effects)",
           "self._spare = None"): TWO_AT_A_TIME,
    Defect("a spare that fails is replaced at once", POLICY, "_failed",
           "self._respawn_at_s = now_s + wait_s", "pass"): TWO_AT_A_TIME,
    Defect("a child that fails in its handshake is no failure", POLICY, "_gone",
           "crash(replaced=self._spare is None)\n        self._failed(text, now_s, effects)",
           "crash(replaced=self._spare is None)"): TWO_AT_A_TIME,
    Defect("each child of a failure counts", POLICY, "_failed",
           "if self._respawn_at_s is None:", "if True:"): TWO_AT_A_TIME,
    Defect("the end of a stopped child is a failure", POLICY, "_gone",
           "elif child == self._spare:",
           "elif child in self._ending:\n        self._failed(text, now_s, effects)\n"
           "    elif child == self._spare:"): TWO_AT_A_TIME,
    Defect("there are many probes", POLICY, "_replenish",
           "self._backoff.failures > 0 and bool(self._taken)", "False"): TWO_AT_A_TIME,
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"): TWO_AT_A_TIME,
    Defect("the end of a backoff starts nothing", POLICY, "handle",
           "self._respawn_at_s = None\n                self._replenish(effects)",
           "self._respawn_at_s = None"): TWO_AT_A_TIME,
    Defect("a backoff begins anew with whoever asks", POLICY, "_take",
           "max(self._respawn_at_s - now_s, 0.0)",
           "max(self._respawn_at_s - now_s, 1.0)"): TWO_AT_A_TIME,
    Defect("a success is forgotten", POLICY, "_bind",
           "self._backoff.succeeded()", "pass"): TWO_AT_A_TIME,
    Defect("the budget is never spent", POLICY, "_take",
           "self._backoff.spent and not self._spare_runs", "False"): TWO_AT_A_TIME,
    Defect("nobody gets a probe that runs", POLICY, "_take",
           "self._backoff.spent and not self._spare_runs", "self._backoff.spent"): TWO_AT_A_TIME,
    Defect("the next spare is believed to run", POLICY, "_replenish",
           "self._spare_runs = False", "pass"): TWO_AT_A_TIME,
    Defect("a bound child makes the spare run", POLICY, "_runs",
           "if child == self._spare:", "if True:"): TWO_AT_A_TIME,
    Defect("who fails makes the upstream not ready beside a spare that runs", POLICY, "_failed",
           "self._spare is not None and self._spare_runs", "False"): TWO_AT_A_TIME,
    Defect("a failure leaves the upstream ready", POLICY, "_failed",
           "self._spare is not None and self._spare_runs", "self.ready"): TWO_AT_A_TIME,
    Defect("a success leaves the upstream not ready", POLICY, "_bind",
           "self.ready, self.text = True, \"\"", "pass"): TWO_AT_A_TIME,
    Defect("a drain lets handshakes begin", POLICY, "_take",
           "if self._undrained is not None:", "if False:"): DRAINS,
    Defect("a drain starts spares", POLICY, "_replenish",
           "self._undrained is None and ", ""): DRAINS,
    Defect("a drain does not wait for handshakes", POLICY, "_drain",
           "{*self._taken.values(), *self._bound}", "{*self._bound}"): DRAINS,
    Defect("a drain waits for the dead", POLICY, "_gone",
           "self._drained(child, effects)", "pass"): DRAINS,
    Defect("a drain is over twice", POLICY, "_drained",
           "self._undrained is not None and child in self._undrained",
           "self._undrained is not None"): DRAINS,
    Defect("a spare is started though none is kept", POLICY, "_replenish",
           "and self._limits.spare", ""): NO_SPARE,
    Defect("a child that fails keeps others from being started", POLICY, "_failed",
           "if not self._limits.spare:", "if False:"): NO_SPARE,
    Defect("a child is given and not taken", POLICY, "_give",
           "self._taken[exchange_id] = child", "pass"): NO_SPARE,
    Defect("it rests beside a session", POLICY, "handle",
           "if self.children:", "if False:"): RESTS,
    Defect("it rests too soon", POLICY, "_rest", "left_s > 0", "False"): RESTS,
    Defect("a spare that has failed to run rests", POLICY, "_rest",
           "self._spare_runs and ", ""): RESTS,
    Defect("it rests in a crash loop", POLICY, "_rest",
           " and self.described(now_s).verdict is Verdict.WELL", ""): RESTS,
    Defect("it never rests after a failure", POLICY, "_rest",
           "well and self._respawn_at_s is None",
           "well and not self._backoff.failures"): RESTS,
    Defect("a rest leaves old failures", POLICY, "_rest",
           "self._backoff.succeeded()", "pass"): RESTS,
    Defect("a process is left", POLICY, "_rest", "self._end(spare, effects)", "pass"): RESTS,
    Defect("who rests gets a spare", POLICY, "_replenish", " and not self.rests", ""): RESTS,
    Defect("nobody is woken", POLICY, "_take", "self._wake(effects)", "pass"): RESTS,
    Defect("a drain is woken", POLICY, "_wake",
           "self.rests and self._undrained is None", "self.rests"): RESTS,
    Defect("a drain rests", POLICY, "_rest", "if self._undrained is not None:",
           "if False:"): RESTS,
    Defect("it rests once", POLICY, "_wake",
           "self._watch_idle(self._limits.idle_stop_s, effects)", "pass"): RESTS,
    Defect("it is not looked again", POLICY, "_rest",
           "self._watch_idle(left_s, effects)", "pass"): RESTS,
    Defect("an old timer looks", POLICY, "handle", "generation == self._idle", "True"): RESTS,
    Defect("a second drain begins", POLICY, "_drain",
           "if self._undrained is not None:", "if False:"): DRAINS,
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the policy were wrong."""
    with planted(defect):
        findings = search(DEFECTS[defect])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 9

"""The children that serve all sessions, through every order of messages.

The search ends when no order leads to a state that was not seen. The second half plants defects,
each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.policy.stdio_shared_children import SharedChildrenPolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_shared_children_model import SharedChildrenSubject

SHARED = partial(SharedChildrenSubject, 1, 1, 2, drains=True)
POOL = partial(SharedChildrenSubject, 2, 2, 4)
NOBODY_WAITS = partial(SharedChildrenSubject, 2, 0, 2)
DRAINS = partial(SharedChildrenSubject, 2, 1, 2, drains=True)
SUBJECTS = {
    "one child": SHARED, "a pool": POOL, "nobody waits": NOBODY_WAITS, "a pool that drains": DRAINS
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_children_keep_their_rules_in_every_order_of_messages(name: str) -> None:
    """One answer to each who asks, one call at a child, in order; one probe a backoff."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 200


POLICY = SharedChildrenPolicy
DEFECTS = {
    Defect("a child runs two calls", POLICY, "_serve",
           "self._free.pop()", "self._free[-1]"): POOL,
    Defect("the last to come is served first", POLICY, "_serve",
           "self._waiting.popleft()", "self._waiting.pop()"): POOL,
    Defect("an end frees no child", POLICY, "_release", "self._free.append(child)", "pass"): POOL,
    Defect("a child is freed twice", POLICY, "_release",
           "self._busy.pop(exchange_id, None)", "self._busy.get(exchange_id)"): POOL,
    Defect("who has given up is served", POLICY, "_release",
           "if x.exchange_id != exchange_id", "if True"): POOL,
    Defect("the end of a call is not heard", POLICY, "handle",
           "self._release(call_id)", "pass"): POOL,
    Defect("a child that has gone is free", POLICY, "_gone",
           "[other for other in self._free if other != child]", "self._free"): POOL,
    Defect("the call of a child that has gone can free it", POLICY, "_gone",
           "if other != child}", "if True}"): POOL,
    Defect("a process that only runs is ready", POLICY, "_became_ready",
           "described is None or child not in self._starting",
           "child not in self._starting"): POOL,
    Defect("a child becomes ready twice", POLICY, "_became_ready",
           "or child not in self._starting", ""): POOL,
    Defect("a child that is ready is starting all the same", POLICY, "_became_ready",
           "self._starting.discard(child)", "pass"): POOL,
    Defect("nobody hears who the server is", POLICY, "_became_ready",
           "e.AnswerDescribed(described)", ""): SHARED,
    Defect("who asks for the server is not heard", POLICY, "_describe",
           "effects.append(e.AnswerDescribed(self._described))", "pass"): SHARED,
    Defect("the server is described by a child that has gone", POLICY, "_describe",
           "self._described is not None and self.ready", "self._described is not None"): SHARED,
    Defect("one too many waits", POLICY, "_take",
           "len(self._waiting) >= self", "len(self._waiting) > self"): POOL,
    Defect("a free child is refused where nobody may wait", POLICY, "_take",
           "not self._free and ", ""): NOBODY_WAITS,
    Defect("who waits is not watched", POLICY, "_serve",
           "effects.append(e.WakeTakeSweep(TAKE_SWEEP_S, self._sweep))", "pass"): POOL,
    Defect("who waits is watched once", POLICY, "handle",
           "self._sweep_armed = False", "pass"): POOL,
    Defect("the timer of those that wait is armed again and again", POLICY, "_serve",
           "if self._waiting and not self._sweep_armed:", "if self._waiting:"): POOL,
    Defect("a stale sweep counts", POLICY, "handle",
           "if generation == self._sweep:", "if True:"): POOL,
    Defect("who waits too long is forgotten", POLICY, "_expire",
           "effects.append(e.RefuseChild(take.exchange_id, Reason.POOL_EXHAUSTED, text, 1.0))",
           "pass"): POOL,
    Defect("who waits too long is refused again and again", POLICY, "_expire",
           "self._waiting.remove(take)", "pass"): POOL,
    Defect("who waits for what is down is not told", POLICY, "_gone",
           "self._fail_waiting(text, self._wait_s(now_s), effects)", "pass"): SHARED,
    Defect("who waits is told that it is down while another serves", POLICY, "_gone",
           "if self._is_down():", "if not self._starting:"): POOL,
    Defect("what is down is waited for", POLICY, "_is_down",
           "(not self._starting or self._backoff.spent)", "not self._starting"): SHARED,
    Defect("nobody waits for a probe", POLICY, "_is_down",
           "not self._starting or self._backoff.spent",
           "not self._starting or self._backoff.failures"): SHARED,
    Defect("what is down is found by calls", POLICY, "_start_missing",
           "if not self._backoff.spent:", "if True:"): SHARED,
    Defect("what has started again is not found by calls", POLICY, "_became_ready",
           "e.NameChild(child), ", ""): SHARED,
    Defect("a child that ends is replaced at once", POLICY, "_start_missing",
           "or self._respawn_at_s is not None", ""): POOL,
    Defect("a child that ends is not replaced", POLICY, "handle",
           "self._respawn_at_s = None\n                self._start_missing(effects)",
           "self._respawn_at_s = None"): POOL,
    Defect("the others are not started with the first", POLICY, "_became_ready",
           "self._start_missing(effects)", "pass"): POOL,
    Defect("there are many probes", POLICY, "_start_missing",
           "self._backoff.failures > 0 and not self.ready", "False"): POOL,
    Defect("one child is enough after a failure", POLICY, "_start_missing",
           "self._backoff.failures > 0 and not self.ready", "self._backoff.failures > 0"): POOL,
    Defect("each child of a failure counts", POLICY, "_gone",
           "if self._respawn_at_s is None:", "if True:"): POOL,
    Defect("a long life does not count", POLICY, "_gone",
           "self._backoff.succeeded()", "pass"): SHARED,
    Defect("a short life counts as a long one", POLICY, "_gone",
           " and now_s - since_s >= STEADY_S", ""): SHARED,
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"): SHARED,
    Defect("a stranger's end is a failure", POLICY, "_gone",
           "if not known:", "if False:"): SHARED,
    Defect("a drain lets calls begin", POLICY, "_take",
           "if self._undrained is not None:", "if False:"): DRAINS,
    Defect("a drain lets sessions begin", POLICY, "_describe",
           "if self._undrained is not None:", "if False:"): DRAINS,
    Defect("a drain starts children", POLICY, "_start_missing",
           "self._undrained is not None or", ""): DRAINS,
    Defect("a drain leaves those that wait", POLICY, "_drain",
           "effects.append(e.RefuseChild(take.exchange_id, Reason.DRAINING, text, 5.0))", "pass"
           ): DRAINS,
    Defect("a drain does not wait for what starts", POLICY, "_drain",
           "{*self._starting, *self._ready_since_s}", "{*self._ready_since_s}"): DRAINS,
    Defect("a drain waits for the dead", POLICY, "_gone",
           "self._drained(child, effects)", "pass"): DRAINS,
    Defect("a drain is over twice", POLICY, "_drained",
           "self._undrained is not None and child in self._undrained",
           "self._undrained is not None"): DRAINS,
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

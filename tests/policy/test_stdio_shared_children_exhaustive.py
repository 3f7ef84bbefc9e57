"""The children that serve all sessions, through every order of messages.

The search ends when no order leads to a state that was not seen. The second half plants defects,
each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.messages.pool import Owner
from proxy_actors.policy.fair_queue import FairQueue
from proxy_actors.policy.stdio_shared_children import SharedChildrenPolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_shared_children_model import SharedChildrenSubject

SHARED = partial(SharedChildrenSubject, 1, 1, 2, drains=True)
POOL = partial(SharedChildrenSubject, 2, 2, 4)
NOBODY_WAITS = partial(SharedChildrenSubject, 2, 0, 2)
DRAINS = partial(SharedChildrenSubject, 2, 1, 2, drains=True)
# Two sessions of one owner, and another owner: of two children, and of a line that is soon full.
OWNERS = (Owner("one", "a"), Owner("one", "b"), Owner("two", "c"))
OWNED = partial(SharedChildrenSubject, 2, 3, 4, owners=OWNERS)
FULL = partial(SharedChildrenSubject, 1, 3, 5, owners=OWNERS)
SUBJECTS = {
    "one child": SHARED, "a pool": POOL, "nobody waits": NOBODY_WAITS,
    "a pool that drains": DRAINS, "owners": OWNED, "a full line": FULL,
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
           "next(self._waiting.in_turn())", "list(self._waiting.rows.values())[-1]"): POOL,
    Defect("who came first is served first, whoever holds what", POLICY, "_serve",
           "next(self._waiting.in_turn())", "next(iter(self._waiting.rows.values()))"): OWNED,
    Defect("what is lent does not count", POLICY, "_serve",
           "self._waiting.lend(take.owner, 1)", "pass"): OWNED,
    Defect("sessions of one owner have no shares", FairQueue, "lend",
           "sessions.holds(owner.session, held)", "pass"): OWNED,
    Defect("what was given back counts", POLICY, "_release",
           "self._waiting.lend(owner, -1)", "pass"): OWNED,
    Defect("what a child ran that has gone counts", POLICY, "_gone",
           "self._waiting.lend(owner, -1)", "pass"): OWNED,
    Defect("a full line refuses the newcomer", POLICY, "_wait",
           "self._waiting.to_give_way(take) if full", "take.exchange_id if full"): FULL,
    Defect("a full line refuses whoever came last before", POLICY, "_wait",
           "self._waiting.to_give_way(take) if full",
           "max(self._waiting.rows, default=take.exchange_id) if full"): FULL,
    Defect("who is to leave a full line waits on", POLICY, "_wait",
           "self._waiting.take(leaving)", "pass"): FULL,
    Defect("an end frees no child", POLICY, "_release", "self._free.append(child)", "pass"): POOL,
    Defect("a child is freed twice", POLICY, "_release",
           "self._busy.pop(exchange_id, None)", "self._busy.get(exchange_id)"): POOL,
    Defect("who has given up is served", POLICY, "_release",
           "self._waiting.take(exchange_id)", "pass"): POOL,
    Defect("the end of a call is not heard", POLICY, "handle",
           "self._release(call_id)", "pass"): POOL,
    Defect("a child that has gone is free", POLICY, "_gone",
           "[other for other in self._free if other != child]", "self._free"): POOL,
    Defect("the call of a child that has gone can free it", POLICY, "_gone",
           "del self._busy[exchange_id]", "pass"): POOL,
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
    Defect("one too many waits", POLICY, "_wait",
           "len(self._waiting.rows) >= self", "len(self._waiting.rows) > self"): POOL,
    Defect("a free child is refused where nobody may wait", POLICY, "_wait",
           "not self._free and ", ""): NOBODY_WAITS,
    Defect("who waits is not watched", POLICY, "_serve",
           "effects.append(e.WakeTakeSweep(TAKE_SWEEP_S, self._sweep))", "pass"): POOL,
    Defect("who waits is watched once", POLICY, "handle",
           "self._sweep_armed = False", "pass"): POOL,
    Defect("the timer of those that wait is armed again and again", POLICY, "_serve",
           "if self._waiting.rows and not self._sweep_armed:", "if self._waiting.rows:"): POOL,
    Defect("a stale sweep counts", POLICY, "handle",
           "if generation == self._sweep:", "if True:"): POOL,
    Defect("who waits too long is forgotten", POLICY, "_expire",
           "effects.append(e.RefuseChild(take.exchange_id, Reason.POOL_EXHAUSTED, text, 1.0))",
           "pass"): POOL,
    Defect("who waits too long is refused again and again", POLICY, "_expire",
           "self._waiting.take(take.exchange_id)", "pass"): POOL,
    Defect("who waits for what is down is not told", POLICY, "_gone",
           "self._refuse_all(Reason.UPSTREAM_UNAVAILABLE, text, wait_s, effects)", "pass"): SHARED,
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
           "self._refuse_all(Reason.DRAINING, DRAINED, DRAINED_RETRY_S, effects)",
           "pass"): DRAINS,
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

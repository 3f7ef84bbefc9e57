"""Every order of messages that a pool of two calls, one reserve and one stream can get.

Where a scope has no depth it is explored until no new state turns up: what holds then holds for
every sequence of any length, with so many exchanges at once. The second half plants defects, each
of which the search must find.
"""

from __future__ import annotations

import pytest

from proxy_actors.messages.pool import Owner, Purpose
from proxy_actors.policy.fair_queue import FairQueue, _Turns
from proxy_actors.policy.ledger import InheritedLease, Ledger
from proxy_actors.policy.pool import PoolPolicy
from proxy_actors.policy.pool_limits import PoolLimits
from tests.defects import Defect, planted
from tests.policy.pool_explorer import Scope, explore

TO_THE_END = 99
LIMITS = PoolLimits(connections_max=2, reserve=1, streams_max=1)
CALL, RESERVED, STREAM = Purpose.CALL, Purpose.RESERVED, Purpose.STREAM

# As left by an incarnation that crashed: two calls, one of which had become a stream.
INHERITED = (
    InheritedLease((1 << 32) + 2, (1 << 32) + 1, 901, 901, CALL),
    InheritedLease((1 << 32) + 4, (1 << 32) + 3, 902, 902, STREAM),
)

CALLS = Scope(LIMITS, TO_THE_END, purposes=(CALL, RESERVED), outstanding_max=5)
STREAMS = Scope(LIMITS, TO_THE_END, (CALL, STREAM), outstanding_max=5, streams=True)
MIXED = Scope(LIMITS, 7, outstanding_max=3, streams=True)
TIME = Scope(LIMITS, 6, (CALL,), outstanding_max=3, idle_s_max=(1.0, 60.0), time=True)
DRAIN = Scope(LIMITS, TO_THE_END, outstanding_max=2, drain=True)
RESTART = Scope(
    LIMITS, TO_THE_END, (CALL, STREAM), 3, failures=False, streams=True, inherited=INHERITED
)
KEPT_OPEN = Scope(
    PoolLimits(connections_max=2, reserve=1, streams_max=1, idle_min=1),
    depth=8,
    purposes=(CALL,),
    outstanding_max=3,
    time=True,
    drain=True,
)
# Two sessions of one owner, and another owner; then so many of them that the queue is full.
OWNERS = (Owner("one", "a"), Owner("one", "b"), Owner("two", "c"))
SHARED = Scope(
    PoolLimits(connections_max=2, reserve=1, streams_max=1), 9, (CALL,), 4, failures=False,
    owners=OWNERS,
)
FULL = Scope(
    PoolLimits(connections_max=1, reserve=1, streams_max=1, waiters_max=4), 8, (CALL,), 7,
    failures=False, owners=OWNERS,
)
SCOPES = {
    "calls": CALLS,
    "streams": STREAMS,
    "mixed": MIXED,
    "time": TIME,
    "drain": DRAIN,
    "restart": RESTART,
    "kept_open": KEPT_OPEN,
    "shared": SHARED,
    "full": FULL,
}


@pytest.mark.parametrize("name", SCOPES)
def test_pool_keeps_its_rules_in_every_order_of_messages(name: str) -> None:
    """Conservation, budgets, one owner each, one answer each, nobody waits without need."""
    findings = explore(SCOPES[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 100


DEFECTS = {
    Defect("a return is dropped", PoolPolicy, "_return",
           "lease = self._ledger.release(back.lease_id)", "lease = None"): CALLS,
    Defect("a connection is granted twice", PoolPolicy, "_take_fitting",
           "return idle.pop(place)", "return idle[place]"): CALLS,
    Defect("the cancel of a waiter is ignored", PoolPolicy, "_cancel",
           "queue.take(waiter_id)", "None"): CALLS,
    Defect("the cancel of a grant is ignored", PoolPolicy, "_cancel",
           "self._ledger.granted_to(waiter_id)", "None"): CALLS,
    Defect("the end of an exchange leaves its lease", PoolPolicy, "_exchange_ended",
           "lease.checkout.exchange_id == exchange_id", "False"): CALLS,
    Defect("the end of an exchange leaves its waiter", PoolPolicy, "_exchange_ended",
           "if x.exchange_id == exchange_id", "if False"): CALLS,
    Defect("the waiter of an ended exchange is not answered", PoolPolicy, "_exchange_ended",
           "self._refuse(ended, Reason.INTERNAL, effects)",
           "[queue.take(x.waiter_id) for x in ended]"): CALLS,
    Defect("a lease ends twice", Ledger, "release",
           "self._leases.pop(lease_id, None)", "self._leases.get(lease_id)"): CALLS,
    Defect("leases of all incarnations are one", Ledger, "release",
           "self._leases.pop(lease_id, None)",
           "self._leases.pop(next((x for x in self._leases if not (x ^ lease_id) & 0xFFFF), 0),"
           " None)"): CALLS,
    Defect("ids begin anew in each incarnation", Ledger, "__init__",
           "incarnation << INCARNATION_SHIFT", "0"): RESTART,
    Defect("leases of before the crash are forgotten", PoolPolicy, "__init__",
           "self._ledger.inherit(row, limits.idle_timeout_s)", "pass"): RESTART,
    Defect("connections of before the crash are used again", PoolPolicy, "_keep",
           "lease.inherited or ", ""): RESTART,
    Defect("calls take from the reserve", PoolPolicy, "_may_lease",
           "calls >= self._calls.limit", "False"): CALLS,
    Defect("calls are opened beyond their budget", PoolPolicy, "_may_open",
           "calls >= self._calls.limit", "False"): CALLS,
    Defect("any waiter takes what was opened for another", PoolPolicy, "_opened",
           "queue.rows and self._may_lease(purpose)", "False"): MIXED,
    Defect("what was opened for a stream is kept beyond the bound", PoolPolicy, "_opened",
           "self._ledger.ordinary >= self.limits.ordinary_max", "False"): MIXED,
    Defect("a stream's needless opening stays in its budget", PoolPolicy, "_serve",
           "self._ledger.move_opening()", "pass"): STREAMS,
    Defect("calls become streams beyond the bound", PoolPolicy, "_became_stream",
           "self._ledger.streams < self.limits.streams_max", "True"): STREAMS,
    Defect("streams come back beyond the bound", PoolPolicy, "_keep",
           "or too_old or full", "or too_old"): STREAMS,
    Defect("a dead connection costs the waiter its place", PoolPolicy, "_grant_failed",
           "self._waiting[lease.checkout.purpose].put_back(lease.checkout)", "return"): CALLS,
    Defect("a failed connect stays on the books", PoolPolicy, "_failed",
           "purpose = self._ledger.end_opening(connection_id)", "purpose = None"): CALLS,
    Defect("the departure of an idle connection is ignored", PoolPolicy, "_idle_ended",
           "connection.id == connection_id", "False"): CALLS,
    Defect("only the first waiter is looked at", PoolPolicy, "_serve",
           "for checkout in queue.in_turn():",
           "for checkout in [next(queue.in_turn(), None)]:\n"
           "            if checkout is None:\n                break"): TIME,
    Defect("a connection is granted that its peer is closing", PoolPolicy, "_take_fitting",
           "idle_s < idle[place].idle_s_max", "True"): TIME,
    Defect("a grant that crossed its cancel counts as use", PoolPolicy, "_cancel",
           "self._keep(lease, now_s, effects)",
           "lease.connection.idle_since_s = now_s; self._keep(lease, now_s, effects)"): TIME,
    Defect("a late waiter is refused again and again", PoolPolicy, "_refuse",
           "self._waiting[checkout.purpose].take(checkout.waiter_id)", "pass"): TIME,
    Defect("a stale sweep counts", PoolPolicy, "handle",
           "generation == self._sweep", "True"): TIME,
    Defect("sweeps end", PoolPolicy, "_finish", "self._sweep_armed = True", "pass"): TIME,
    Defect("a drain closes what is leased", PoolPolicy, "_drain",
           "self._draining = True",
           "self._draining = True\n    effects.extend(m.Close(x.connection.id)"
           " for x in self._ledger.leases())"): DRAIN,
    Defect("a drain keeps what comes back", PoolPolicy, "_keep",
           "or self._draining or", "or"): DRAIN,
    Defect("a drain lets calls wait", PoolPolicy, "_drain",
           "self._refuse(list(self._waiting[Purpose.CALL].in_turn()), Reason.DRAINING, effects)",
           "pass"): DRAIN,
    Defect("who came first is served first, whoever holds what", _Turns, "_enter",
           "self._levels.get(held)", "self._levels.get(next(iter(self._levels), None))"): SHARED,
    Defect("a lease counts in its owner's share for ever", Ledger, "release",
           "self._count(lease, -1)", "self._leased[lease.purpose] -= 1"): SHARED,
    Defect("what a session holds does not matter", FairQueue, "lend",
           "sessions.holds(owner.session, held)", "pass"): SHARED,
    Defect("who was served in vain comes last", FairQueue, "put_back",
           "self._sessions[name].lines[session].move_to_end(waiter.waiter_id, last=False)",
           "pass"): SHARED,
    Defect("a full queue refuses the newcomer", FairQueue, "to_give_way",
           "longest is not None", "False"): FULL,
    Defect("who is refused waits on", PoolPolicy, "_checkout",
           "queue.take(refusal.waiter_id)", "queue.take(checkout.waiter_id)"): FULL,
    Defect("a full queue refuses anybody else", FairQueue, "to_give_way",
           "longest = self._owners.longest(name)",
           "longest = next(iter(self._owners.waiting))"): FULL,
    Defect("the longest line loses its first", FairQueue, "to_give_way",
           "next(reversed(sessions.lines[session]))", "next(iter(sessions.lines[session]))"): FULL,
    Defect("a drain is done while leases are out", PoolPolicy, "_finish",
           "not self._ledger.owned", "not self._ledger.idle"): DRAIN,
    Defect("a drain is done twice", PoolPolicy, "_finish", "self._drained = True", "pass"): DRAIN,
    Defect("an abort keeps leases", PoolPolicy, "_abort",
           "effects.append(m.Close(lease.connection.id))", "pass"): DRAIN,
    Defect("an abort waits for what is being opened", PoolPolicy, "_abort",
           "self._ledger.forget_openings()", "pass"): DRAIN,
}


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the pool were wrong."""
    with planted(defect):
        findings = explore(DEFECTS[defect])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 10

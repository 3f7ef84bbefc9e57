"""Every order of messages that a registry of two sessions and two principals can get, to a depth.

Among the messages are those of a store that commits, fails and is heard late, and crashes of the
actor and of the process (FLT-P3). The second half plants defects, each of which must be found.
"""

from __future__ import annotations

import pytest

from proxy_actors.policy.session_ledger import SessionLedger
from proxy_actors.policy.session_shares import SessionShares
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy
from tests.defects import Defect, planted
from tests.policy.session_explorer import Scope, explore

SHORT = SessionLimits(sessions_max=2, idle_timeout_s=60.0, lifetime_max_s=100.0)

ONE = SessionLimits(sessions_max=1, idle_timeout_s=1e6, lifetime_max_s=1e6)

FOUR = SessionLimits(sessions_max=4, idle_timeout_s=1e6, lifetime_max_s=1e6)

FIVE = SessionLimits(sessions_max=5, idle_timeout_s=1e6, lifetime_max_s=1e6)

CROWDED = SessionLimits(
    sessions_max=3, of_upstream={"up": 1}, idle_timeout_s=1e6, lifetime_max_s=1e6
)

USES = Scope(8)
UPSTREAMS = Scope(
    7, CROWDED, sessions_max=4, uses_max=1, asks_max=1, upstreams=("up", "other"),
)
SHARES = Scope(
    9, FOUR, ("a",), sessions_max=5, uses_max=0, asks_max=0, addresses=("x", "y"),
)
STRANGERS = Scope(
    8, principals=("a",), uses_max=0, asks_max=0, addresses=("x", "y", "z"),
)
UNEQUAL = Scope(
    9, FIVE, ("a",), sessions_max=6, uses_max=0, asks_max=0, addresses=("x", "y"),
)
RETURNS = Scope(
    7, principals=("a",), uses_max=1, asks_max=0, sweeps=True, crashes=("actor", "process"),
    addresses=("x", "y"),
)
FAILURES = Scope(8, ONE, sessions_max=2, uses_max=1, asks_max=1, failures=True, sweeps=True)
CRASHES = Scope(
    6, principals=("a",), uses_max=1, asks_max=1, sweeps=True, crashes=("actor", "process"),
    resumable=(True, False),
)
FAILED_CRASHES = Scope(
    7, ONE, ("a",), sessions_max=2, uses_max=1, asks_max=1, failures=True, sweeps=True,
    crashes=("actor", "process"),
)
LEVELS = Scope(
    18, principals=("a",), sessions_max=1, uses_max=0, asks_max=0, levels=True,
    failures=True, sweeps=True, crashes=("process",),
)
TIME = Scope(
    8, SHORT, ("a",), sessions_max=2, uses_max=1, asks_max=1, time=True, sweeps=True,
    failures=True,
)
SCOPES = {
    "uses": USES,
    "upstreams": UPSTREAMS,
    "shares": SHARES,
    "strangers": STRANGERS,
    "unequal": UNEQUAL,
    "returns": RETURNS,
    "failures": FAILURES,
    "crashes": CRASHES,
    "failed_crashes": FAILED_CRASHES,
    "levels": LEVELS,
    "time": TIME,
}


@pytest.mark.parametrize("name", SCOPES)
def test_sessions_keep_their_promises_in_every_order_of_messages(name: str) -> None:
    """No id works before it is durable or after its end, every ask has one answer (THR-T5)."""
    findings = explore(SCOPES[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 100


DEFECTS = {
    Defect("an id works before it is durable", SessionPolicy, "_begin_use",
           "entry.phase is not Phase.LIVE", "entry.phase is Phase.ENDING"): USES,
    Defect("an id works while it is being deleted", SessionPolicy, "_begin_use",
           "entry.phase is not Phase.LIVE", "entry.phase is Phase.CREATING"): USES,
    Defect("an id works for anybody", SessionPolicy, "_begin_use",
           "entry.session.principal != principal", "False"): USES,
    Defect("an id that expired works", SessionPolicy, "_begin_use",
           "now_s - entry.used_s >= self.limits.idle_timeout_s", "False"): TIME,
    Defect("an id is given away at once", SessionPolicy, "_create",
           "return self._write(writes)",
           "return [*self._write(writes), m.Accept(ask_id, front_id, session)]"): USES,
    Defect("a principal is stored as it is", SessionPolicy, "_create",
           "hash_of_principal(message.principal)", "message.principal"): USES,
    Defect("one more than the bound is let in", SessionShares, "has_room",
           "self.most - self.occupied", "self.most - self.occupied + 1"): USES,
    Defect("one client may have all", SessionShares, "has_room",
           "self.held[holder]", "0"): USES,
    Defect("what a client has elsewhere counts", SessionLedger, "full_at",
           "not there.has_room", "not self._shares.has_room"): UPSTREAMS,
    Defect("an upstream has more than its bound", SessionLedger, "full_at",
           "there is not None", "False"): UPSTREAMS,
    Defect("another upstream makes room", SessionPolicy, "_create",
           "to_give_way(holder, full)", "to_give_way(holder)"): UPSTREAMS,
    Defect("an end makes no room", SessionShares, "vacate",
           "self.occupied -= 1", "pass"): UPSTREAMS,
    Defect("who has its share is told that all are taken", SessionPolicy, "_create",
           "m.Refusal.SHARE if left else", ""): USES,
    Defect("where all are taken a client is told of its share", SessionPolicy, "_create",
           "if left else m.Refusal.FULL", ""): USES,
    Defect("the room is made in a write of its own", SessionPolicy, "_create",
           "writes.append(self._begin_end(victim, EndReason.EVICTED))",
           "early = self._write([self._begin_end(victim, EndReason.EVICTED)])"): USES,
    Defect("nobody is asked to make room", SessionLedger, "to_give_way",
           "self.entries[key]", "None"): USES,
    Defect("others make room first", SessionShares, "to_give_way",
           "share + 2", "share"): SHARES,
    Defect("others make room who hold as much", SessionShares, "to_give_way",
           "share + 2", "share + 1"): SHARES,
    Defect("who holds more gives nothing", SessionShares, "to_give_way",
           "share + 2", "share + 3"): UNEQUAL,
    Defect("whoever has least makes room", SessionShares, "to_give_way", "max(", "min("): UNEQUAL,
    Defect("who holds as many makes room", SessionShares, "to_give_way",
           "if most > share", "if most"): USES,
    Defect("what is held elsewhere counts", SessionLedger, "to_give_way",
           "self._shares if shares is None else shares", "self._shares"): UPSTREAMS,
    Defect("anonymous clients have one share", SessionPolicy, "_create",
           "hash_of_principal(message.owner)", "hash_of_principal(message.principal)"): SHARES,
    Defect("who held a session is forgotten", SessionPolicy, "load",
           "row.holder or row.session.principal", "row.session.principal"): RETURNS,
    Defect("who comes back has its share no more", SessionPolicy, "_begin_use",
           "if entry.holder == principal", "if False"): RETURNS,
    Defect("who comes back has two shares", SessionLedger, "claim",
           "shares.vacate(entry.holder)", "pass"): RETURNS,
    Defect("who comes back gives for somebody else", SessionLedger, "claim",
           "shares.rest(holder, ", "shares.rest(entry.holder, "): RETURNS,
    Defect("those in use make room", SessionLedger, "begin_use",
           "self._wake(entry)", "pass"): USES,
    Defect("what one used last makes room", SessionShares, "to_give_way",
           "own[0]", "own[-1]"): SHARES,
    Defect("what others used last makes room", SessionShares, "to_give_way",
           "self.firsts[most][0]", "self.firsts[most][-1]"): STRANGERS,
    Defect("who has more is listed as before", SessionShares, "occupy",
           "self._remove_first(holder)", "pass"): SHARES,
    Defect("a use that ended is still open", SessionLedger, "end_use",
           "self._uses.pop(exchange_id, None)", "None"): USES,
    Defect("a use can end twice", SessionLedger, "end_use",
           "self._uses.pop(exchange_id, None)", "self._uses.get(exchange_id)"): USES,
    Defect("an end is confirmed at once", SessionPolicy, "_end_session",
           "entry.asks.append(ask_id)",
           "return [*self._write([self._begin_end(entry, reason)]), m.Confirm(ask_id, True)]"
           ): USES,
    Defect("the second who asks for an end is forgotten", SessionPolicy, "_deleted",
           "for ask_id in entry.asks)\n    elif", "for ask_id in entry.asks[:1])\n    elif"
           ): USES,
    Defect("an end that failed is not answered", SessionPolicy, "_deleted",
           "effects.extend(m.Refuse(ask_id, m.Refusal.NOT_STORED) for ask_id in entry.asks)",
           "pass"): FAILURES,
    Defect("an end that failed is forgotten", SessionPolicy, "_sweep",
           "not entry.deleting", "False"): FAILURES,
    Defect("an end that failed is undone", SessionPolicy, "_deleted",
           "elif entry.revives", "elif True"): FAILURES,
    Defect("an end of what makes room can be undone", SessionPolicy, "_end_session",
           "entry.revives = False", "pass"): FAILURES,
    Defect("what was to make room is lost", SessionPolicy, "_begin_end",
           "reason is EndReason.EVICTED", "False"): FAILURES,
    Defect("a creation that failed keeps its place", SessionPolicy, "_created",
           "self._ledger.remove(entry)", "pass"): FAILURES,
    Defect("a creation that failed is accepted", SessionPolicy, "_created",
           "if error", "if False"): FAILURES,
    Defect("ends are told before they are durable", SessionPolicy, "_begin_end",
           "return self._delete(entry)",
           "del self._entries[entry.session.key]; return self._delete(entry)"): USES,
    Defect("a crash forgets what was being ended", SessionPolicy, "load",
           "self._ledger.enter_ending(Entry(ended.session, False, now_s, now_s, \"\"))", "pass"
           ): CRASHES,
    Defect("a crash undoes what was being ended", SessionPolicy, "load",
           "if row.session.key not in self._unfinished", "if True"): CRASHES,
    Defect("no note is taken of a creation", SessionPolicy, "_create",
           "self._unfinished[session.key] = m.SessionEnded(session, EndReason.DELETED)", "pass"
           ): CRASHES,
    Defect("no note is taken of an end", SessionPolicy, "_begin_end",
           "self._unfinished[entry.session.key] = m.SessionEnded(entry.session, reason)", "pass"
           ): CRASHES,
    Defect("a session is stored that is not resumable", SessionPolicy, "_save",
           "entry.resumable", "True"): CRASHES,
    Defect("a session is not stored as resumable", SessionPolicy, "_save",
           "entry.resumable", "False"): CRASHES,
    Defect("the last level set is not saved", SessionPolicy, "_change",
           "entry.changed = True", "pass"): LEVELS,
    Defect("a level that could not be saved is forgotten", SessionPolicy, "_saved",
           "entry.changed = True", "pass"): LEVELS,
    Defect("a level brings back what is ending", SessionPolicy, "_change",
           "entry.phase is not Phase.LIVE", "False"): LEVELS,
    Defect("a late save brings back what is ending", SessionPolicy, "_saved",
           "elif entry.changed and entry.phase is Phase.LIVE", "elif entry.changed"): LEVELS,
    Defect("nothing expires", SessionPolicy, "_sweep",
           "now_s - oldest.used_s >= limits.idle_timeout_s", "False"): TIME,
    Defect("a session that is used lives for ever", SessionPolicy, "_sweep",
           "if entry.phase is Phase.LIVE:", "if False:"): TIME,
    Defect("a stale sweep counts", SessionPolicy, "handle",
           "if generation == self._generation", "if True"): TIME,
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the registry were wrong."""
    with planted(defect):
        findings = explore(DEFECTS[defect])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 10

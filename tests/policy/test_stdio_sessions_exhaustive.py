"""Sessions that share children, through every order of messages.

The search ends when no order leads to a state that was not seen. From each of them the children are
let to answer all that they were asked: then they must know what is wanted, and nothing else. The
second half plants defects, each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.policy.stdio_asks import Ask, ChildrenAsks
from proxy_actors.policy.stdio_sessions import SharedSessionsPolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_sessions_model import URI, SharedSessionsSubject

BOTH_LEVELS = ("debug", "error")
LEVELS = partial(SharedSessionsSubject, 1, levels=BOTH_LEVELS, refuses=True)
URIS = partial(SharedSessionsSubject, 1, uris=(URI,), refuses=True)
POOL_LEVELS = partial(SharedSessionsSubject, 2, levels=BOTH_LEVELS, calls_max=1)
POOL_URIS = partial(SharedSessionsSubject, 2, uris=(URI,))
STREAMS = partial(
    SharedSessionsSubject, 1, uris=(URI,), frames=("list", "updated"), calls_max=0
)
SUBJECTS = {
    "levels": LEVELS, "subscriptions": URIS, "levels of a pool": POOL_LEVELS,
    "subscriptions of a pool": POOL_URIS, "streams": STREAMS,
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_sessions_keep_their_rules_in_every_order_of_messages(name: str) -> None:
    """Each call has one answer, each session its own part, the children what is wanted."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 500


POLICY = SharedSessionsPolicy
DEFECTS = {
    Defect("a subscription is not the session's", POLICY, "_finish",
           "self._record(ask.session_key, ask.value)", "pass"): URIS,
    Defect("what was withdrawn is recorded", ChildrenAsks, "withdraw",
           "ask.withdrawn = True", "pass"): URIS,
    Defect("the end of a session leaves what it has asked for", POLICY, "_end",
           "withdrawn = self._asks.withdraw(session_key)", "withdrawn = set()"): URIS,
    Defect("who unsubscribes is subscribed by its earlier call", POLICY, "_unsubscribe",
           "self._asks.withdraw(submit.session_key, uri)", "pass"): URIS,
    Defect("the first to leave unsubscribes all", POLICY, "_is_wanted",
           "uri in self._subscribers or", ""): URIS,
    Defect("who leaves unsubscribes who is about to come", POLICY, "_is_wanted",
           "uri in self._subscribers or any(ask.value == uri for ask in pending)",
           "uri in self._subscribers"): URIS,
    Defect("the last to leave does not unsubscribe", POLICY, "_settle_uri",
           "self._asks.tell(UNSUBSCRIBE, uri, effects)", "pass"): URIS,
    Defect("a session that ends does not unsubscribe", POLICY, "_end",
           "self._settle_uri(uri, effects)", "pass"): URIS,
    Defect("a session that ends stays a subscriber", POLICY, "_end",
           "self._forget(session_key, uri)", "pass"): URIS,
    Defect("who unsubscribes stays a subscriber", POLICY, "_unsubscribe",
           "self._forget(submit.session_key, uri)", "pass"): URIS,
    Defect("a refused subscription is not undone", POLICY, "_finish",
           "self._settle_uri(ask.value, effects)", "pass"): URIS,
    Defect("the second subscriber is not recorded", POLICY, "_submit",
           "self._record(key, uri)", "pass"): URIS,
    Defect("a subscription that is asked for is answered as one that is had", POLICY, "_submit",
           "elif uri in self._subscribers:", "elif self._is_wanted(uri):"): URIS,
    Defect("stored subscriptions are not told", POLICY, "_seen",
           "self._asks.tell(SUBSCRIBE, uri, effects)", "pass"): URIS,
    Defect("stored subscriptions rely on what is only asked for", POLICY, "_seen",
           "if uri not in self._subscribers:", "if not self._is_wanted(uri):"): URIS,
    Defect("stored levels are not told", POLICY, "_seen",
           "self._settle_level(effects)", "pass"): LEVELS,
    Defect("the last to ask decides the level", POLICY, "_submit",
           "self._levels(other_than=key) | {level}", "{level}"): LEVELS,
    Defect("a session's own level keeps it from a less verbose one", POLICY, "_levels",
           "if session.level is not None and key != other_than",
           "if session.level is not None"): LEVELS,
    Defect("a level that is asked for does not count", POLICY, "_levels",
           "levels | {ask.value for ask in asked if ask.session_key != other_than}",
           "levels"): LEVELS,
    Defect("a level is not the session's", POLICY, "_finish",
           "self._sessions[ask.session_key].level = ask.value", "pass"): LEVELS,
    Defect("a refused level is the session's", POLICY, "_finish",
           "ask.result is not None and not ask.withdrawn", "not ask.withdrawn"): LEVELS,
    Defect("a refused level is believed to be told", ChildrenAsks, "answered",
           "self.told_level = None", "pass"): LEVELS,
    Defect("the level of who has gone stays", POLICY, "_end",
           "self._settle_level(effects)", "pass"): LEVELS,
    Defect("a call that was given up is answered", ChildrenAsks, "abandon",
           "ask.call_id = None", "pass"): LEVELS,
    Defect("a call that was given up is forgotten", ChildrenAsks, "abandon",
           "if ask.call_id == call_id:\n            ask.call_id = None",
           "if ask.call_id == call_id:\n            ask.withdrawn = True; ask.call_id = None"
           ): URIS,
    Defect("an error is told as a failure", Ask, "outcome",
           "if self.error is not None:", "if False:"): LEVELS,
    Defect("a late answer is told as an exit", Ask, "outcome",
           "if self.reason is Reason.UPSTREAM_TIMEOUT:", "if False:"): LEVELS,
    Defect("nobody can be asked, and nobody is told", POLICY, "_ask",
           "effects.append(e.FailOwn(submit.call_id, reason, text, Executed.NO))", "pass"): URIS,
    Defect("an ended session is known again", POLICY, "_seen",
           "seen.key in self._ended or", ""): URIS,
    Defect("a session that is known is known anew", POLICY, "_seen",
           "or seen.key in self._sessions", ""): LEVELS,
    Defect("a new child is not told the level", ChildrenAsks, "became_ready",
           "effects.append(self._request(child, SET_LEVEL, level))", "pass"): LEVELS,
    Defect("a new child is not told the subscriptions", POLICY, "_became_ready",
           "sorted(self._subscribers.keys() | pending)", "[]"): URIS,
    Defect("a new child is not told what is asked for", POLICY, "_became_ready",
           "self._subscribers.keys() | pending", "self._subscribers.keys()"): POOL_URIS,
    Defect("a new child is believed to have the level of the others", ChildrenAsks,
           "became_ready", "self.told_level = None  # some are being told another one",
           "pass"): POOL_LEVELS,
    Defect("a new child's level is believed to be that of the others", ChildrenAsks,
           "became_ready", "self.told_level = None  # some are being told another one",
           "self.told_level = level"): POOL_LEVELS,
    Defect("the first answer of a pool decides", ChildrenAsks, "answered",
           "if ask.left:\n        return None", "if False:\n        return None"): POOL_URIS,
    Defect("the last answer of a pool decides", ChildrenAsks, "answered",
           "if ask.result is None:\n        ask.result = answer.result",
           "ask.result = answer.result"): POOL_URIS,
    Defect("a child that has gone is waited for", POLICY, "handle",
           "for ask in self._asks.gone(child):\n                self._finish(ask, effects)",
           "self._asks._children.remove(child) if child in self._asks._children else None"): URIS,
    Defect("a child that has gone is asked", ChildrenAsks, "gone",
           "self._children.remove(child)", "pass"): URIS,
    Defect("all that a child has not answered is over at once", POLICY, "handle",
           "for ask in self._asks.gone(child):", "for ask in [*self._asks.gone(child)]:"
           ): POOL_URIS,
    Defect("an answer counts twice", ChildrenAsks, "answered",
           "self._asks.pop(answer.own_id, (None, \"\"))",
           "self._asks.get(answer.own_id, (None, \"\"))"): URIS,
    Defect("a process that only runs is asked", POLICY, "handle",
           "if described is not None:", "if True:"): URIS,
    Defect("a list that has changed is one session's", POLICY, "_concerned",
           "return list(self._sessions)", "return list(self._sessions)[:1]"): STREAMS,
    Defect("everybody hears of a resource", POLICY, "_concerned",
           "if frame.method == UPDATED:", "if False:"): STREAMS,
    Defect("anybody gets the log", POLICY, "_concerned",
           "if len(self._sessions) != 1 or not",
           "if len(self._sessions) > 1:\n        return list(self._sessions)[:1]\n"
           "    if not self._sessions or not"): STREAMS,
    Defect("the log of a call of an ended session is shown", POLICY, "_concerned",
           " or not at_work_for <= self._sessions.keys()", ""): STREAMS,
    Defect("the log is shown at every level", POLICY, "_concerned",
           "LEVELS.index(level) >= LEVELS.index(session.level)", "True"): LEVELS,
    Defect("what is missed is lost", POLICY, "_notified",
           "session.missed[frame.method, uri] = frame.raw", "pass"): STREAMS,
    Defect("what was missed is given again", POLICY, "_open",
           "session.missed.clear()", "pass"): STREAMS,
    Defect("what is dropped is not counted", POLICY, "_notified",
           "effects.append(e.DropFrame(\"notification that concerns nobody\"))", "pass"): STREAMS,
    Defect("a second stream opens", POLICY, "_open",
           "elif session.stream_open:", "elif False:"): STREAMS,
    Defect("a stream that is over gets messages", POLICY, "stream_ended",
           "session.stream_open = False", "pass"): STREAMS,
    Defect("a stream outlives its session", POLICY, "_end",
           "effects.append(e.CloseSessionStream(session_key))", "pass"): STREAMS,
    Defect("nobody hears that a new child's lists may be others", POLICY, "_became_ready",
           "self._starts >= self._children", "False"): STREAMS,
    Defect("everybody hears of lists at the first start", POLICY, "_became_ready",
           "self._starts >= self._children", "True"): STREAMS,
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the policy were wrong."""
    with planted(defect):
        findings = search(DEFECTS[defect])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 9

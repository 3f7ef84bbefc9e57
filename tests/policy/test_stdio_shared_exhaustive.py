"""The ledger of a child that serves many sessions, through every order of messages.

All sessions use one id and one token. Whatever the order of frames, exits, abandons, cancellations
and deadlines, every call has exactly one end and only its own answer (THR-T4; FLT-U1, U10, U11;
MCP-G-3, X-3 to X-6). The search ends when no order leads to a state that was not seen. The second
half plants defects, each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.policy.stdio_calls import CallTable
from proxy_actors.policy.stdio_shared import SharedPolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_shared_model import SharedSubject

ANSWERS = partial(SharedSubject, ("a", "b", "c"), shaken=True)
TIME = partial(SharedSubject, ("a", "b"), shaken=True, time=True, drains=True)
LATE = partial(SharedSubject, ("a", "b"), shaken=True, time=True, late=True)
HELD = partial(SharedSubject, ("a", "b"), time=True)
OWN = partial(SharedSubject, ("a",), own=True, time=True, drains=True)
# The third session has an owner of its own.
SHARES = partial(SharedSubject, ("a", "b", "c"), shaken=True, bound=2)
SUBJECTS = {
    "answers": ANSWERS, "time": TIME, "late answers": LATE, "held back": HELD,
    "the proxy's own": OWN, "shares": SHARES,
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_ledger_keeps_its_rules_in_every_order_of_messages(name: str) -> None:
    """One end for every call, its own answer under its own id; all else is counted."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 100


POLICY = SharedPolicy
DEFECTS = {
    # Ids and tokens.
    Defect("a frame goes to the wrong call", CallTable, "find",
           "self._by_id.get(upstream_id)",
           "self._by_id.get(upstream_id) and next(iter(self._by_call.values()))"): ANSWERS,
    Defect("ids that look alike are the same", CallTable, "find",
           "self._by_id.get(upstream_id)", "self._by_id.get(upstream_id.strip(b'\"'))"): ANSWERS,
    Defect("ids are used again", POLICY, "_mint", "self._serial += 1",
           "self._serial = 2 + len(self._calls)"): ANSWERS,
    Defect("an answer carries the child's id", POLICY, "_responded",
           "jsonrpc_rewrite.with_id(frame, call.client_id)", "frame.raw"): ANSWERS,
    Defect("a request keeps its id", POLICY, "_submit",
           "jsonrpc_rewrite.with_id(request, id, progress_token=call.upstream_token)",
           "request.raw"): ANSWERS,
    Defect("a request keeps its token", POLICY, "_submit",
           "id, progress_token=call.upstream_token", "id"): ANSWERS,
    Defect("progress carries the child's token", POLICY, "_notified",
           "jsonrpc_rewrite.notification_with_progress_token(frame, call.client_token)",
           "frame.raw"): ANSWERS,
    Defect("the client's token finds its call", POLICY, "_submit",
           "call.upstream_token = None if call.client_token is None else id", "pass"): ANSWERS,
    Defect("progress goes on after the end", CallTable, "_leave",
           "del self._by_token[token]", "pass"): ANSWERS,
    Defect("an answer leaves its call in flight", CallTable, "answer",
           "self._leave(call)", "pass"): ANSWERS,
    Defect("an answer to nothing is not counted", POLICY, "_responded",
           "self._calls.late(frame.id)\n        effects.append(e.DropFrame(\"response to no call "
           "in flight\"))", "self._calls.late(frame.id)"): ANSWERS,
    Defect("a session uses an id twice", POLICY, "_submit",
           "self._calls.find_by_client(submit.session_key, request.id) is not None",
           "False"): ANSWERS,
    Defect("an id is refused because another session uses it", CallTable, "find_by_client",
           "self._by_client.get((session_key, client_id))",
           "next((x for k, x in self._by_client.items() if k[1] == client_id), None)"): ANSWERS,
    Defect("a session cannot use its id again", CallTable, "_leave",
           "del self._by_client[call.session_key, call.client_id]", "pass"): ANSWERS,
    Defect("a cancellation carries the client's id", POLICY, "_send",
           "jsonrpc_rewrite.cancelled_with_request_id(sent, call.upstream_id)", "sent.raw"
           ): ANSWERS,
    Defect("a cancellation of nothing is passed on", POLICY, "_send",
           "effects.append(e.DropFrame(\"cancellation of no call in flight\"))",
           "effects.append(e.WriteFrame(sent.raw))"): ANSWERS,
    # What is no call.
    Defect("a server's request is passed over", POLICY, "_refuse",
           "effects.append(e.WriteFrame(data))", "pass"): ANSWERS,
    Defect("a ping is refused", POLICY, "_refuse", "if frame.method == PING:", "if False:"
           ): ANSWERS,
    Defect("a client's answer is passed on", POLICY, "_send",
           "effects.append(e.DropFrame(\"answer to no open request\"))",
           "effects.append(e.WriteFrame(sent.raw))"): ANSWERS,
    Defect("a client's handshake is passed on", POLICY, "_send",
           "(INITIALIZED, PROGRESS, ", "(PROGRESS, "): ANSWERS,
    Defect("a client's progress is passed on", POLICY, "_send",
           "(INITIALIZED, PROGRESS, ", "(INITIALIZED, "): ANSWERS,
    Defect("the server's cancellation goes to everybody", POLICY, "_notified",
           "elif frame.method == CANCELLED:", "elif False:"): ANSWERS,
    Defect("the upstream does not hear of lists", POLICY, "_notified",
           "effects.append(e.TellUpstream(frame, self._calls.sessions()))", "pass"): ANSWERS,
    Defect("the child is not at work for who gave up", CallTable, "_give_up",
           "self._given_up[call.upstream_id] = call.session_key", "pass"): LATE,
    Defect("the child is at work for whom it has answered late", CallTable, "late",
           "self._given_up.pop(upstream_id, None)", "pass"): LATE,
    Defect("the child is at work for what was not sent", CallTable, "_give_up",
           "if not call.unsent:", "if True:"): HELD,
    # Ends.
    Defect("an end is not announced", POLICY, "_finish", "self._note_ends(effects)", "pass"
           ): ANSWERS,
    Defect("a refusal is not announced", POLICY, "_note_ends", "| e.RefuseCall(call_id)", ""
           ): ANSWERS,
    Defect("the end of a stream is not announced", POLICY, "_note_ends",
           "ended.append(e.TellCallEnded(call_id))\n            case e.EmitToCall(call_id, "
           "final=True):\n                ended.append(e.TellCallEnded(call_id))",
           "ended.append(e.TellCallEnded(call_id))"): ANSWERS,
    Defect("a child that ends announces no ends", POLICY, "exited",
           "self._note_ends(effects)", "pass"): ANSWERS,
    Defect("a child that ends leaves its own asks", POLICY, "exited",
           "effects.append(e.TellOwnAnswered(own.own_id, reason=reason))", "pass"): OWN,
    Defect("a held request may have been executed", CallTable, "fail_all",
           "call.unsent or call.id in unwritten", "call.id in unwritten"): HELD,
    Defect("a late call is not cancelled", CallTable, "_expire",
           "self._cancel(call, effects)", "pass"): TIME,
    Defect("a late call that was held may have been executed", CallTable, "_expire",
           "if call.unsent:", "if False:"): HELD,
    # The handshake.
    Defect("the handshake is not finished", POLICY, "_own_answered",
           "effects.append(e.WriteFrame(jsonrpc_rewrite.notification(INITIALIZED)))", "pass"
           ): HELD,
    Defect("a useless handshake is taken", POLICY, "_own_answered",
           "if described is None:\n        effects.append(e.GiveUp(\"the server's answer to "
           "initialize cannot be used\"))\n        return",
           "if described is None:\n        described = m.ServerDescribed(b'{}', LATEST)"): HELD,
    Defect("requests precede the handshake", POLICY, "_write", "if self._ready:", "if True:"
           ): HELD,
    Defect("requests that were held are lost", POLICY, "_own_answered",
           "effects.append(held[call.upstream_id])", "pass"): HELD,
    Defect("what nobody waits for is sent after the handshake", POLICY, "_own_answered",
           "if id in self._own]", "]"): HELD,
    Defect("what nobody waits for is taken for open", POLICY, "_is_open",
           "return id in self._own or self._calls.find(id) is not None", "return True"): HELD,
    # Shares.
    Defect("there is room for everybody", POLICY, "_submit",
           "not self._calls.has_room(submit.owner)", "False"): SHARES,
    Defect("a call is nobody's", POLICY, "_submit",
           "has_room(submit.owner)", "has_room(type(submit.owner)())"): SHARES,
    Defect("a call has no share", CallTable, "enter",
           "self._shares.enter(call.owner)", "pass"): SHARES,
    Defect("a call has its share for ever", CallTable, "_leave",
           "self._shares.leave(call.owner)", "pass"): SHARES,
    Defect("what was sent counts as held", POLICY, "_own_answered",
           "call.unsent = False", "pass"): HELD,
    Defect("what nobody waits for is held", POLICY, "_sweep",
           "self._held = {id: held for id, held in self._held.items() if self._is_open(id)}",
           "pass"): HELD,
    Defect("a held call is cancelled at the server", CallTable, "_cancel",
           "and not call.unsent ", ""): HELD,
    Defect("a held call that was cancelled is sent", CallTable, "cancelled",
           "if call.unsent:", "if False:"): HELD,
    Defect("what was not sent can be answered", POLICY, "_responded",
           "frame.id is None or frame.id in self._held", "frame.id is None"): HELD,
    Defect("what was not sent can have progress", POLICY, "_notified",
           " or call.unsent", ""): HELD,
    Defect("a client's word precedes the handshake", POLICY, "_send",
           "elif not self._ready:", "elif False:"): HELD,
    Defect("a handshake may take for ever", POLICY, "_sweep",
           "if own.own_id == _HANDSHAKE:", "if False:"): HELD,
    # Own requests, timer and drain.
    Defect("an own request may take for ever", POLICY, "_sweep",
           "effects.append(e.TellOwnAnswered(own.own_id, reason=Reason.UPSTREAM_TIMEOUT))",
           "pass"): OWN,
    Defect("a late own request is answered twice", POLICY, "_sweep", "del self._own[id]",
           "self._own[id] = _Own(own.own_id, now_s + OWN_S_MAX)"): OWN,
    Defect("a late own request is not cancelled", POLICY, "_sweep",
           "effects.append(e.WriteFrame(jsonrpc_rewrite.cancelled(id)))", "pass"
           ): OWN,
    Defect("an own request that was held is cancelled", POLICY, "_sweep",
           "if self._ready:", "if True:"): OWN,
    Defect("an error of an own request is lost", POLICY, "_own_answered",
           "None if error is None else bytes(error)", "None"): OWN,
    Defect("nobody watches own requests", POLICY, "_finish",
           "(len(self._calls) or self._own)", "len(self._calls)"): OWN,
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"): TIME,
    Defect("the timer rings once", POLICY, "handle", "self._armed = False", "pass"): TIME,
    Defect("a drain lets calls begin", POLICY, "_submit", "if self._draining:", "if False:"
           ): TIME,
    Defect("a drain does not wait for calls", POLICY, "_finish",
           "and not len(self._calls) ", ""): TIME,
    Defect("a drain does not wait for own requests", POLICY, "_finish", " and not asked", ""
           ): OWN,
    Defect("a drain waits for the handshake", POLICY, "_finish",
           "any(own.own_id != _HANDSHAKE for own in self._own.values())", "self._own"): OWN,
    Defect("a drain is over twice", POLICY, "_finish", "self._drained = True", "pass"): TIME,
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the ledger were wrong."""
    with planted(defect):
        findings = search(DEFECTS[defect])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 8

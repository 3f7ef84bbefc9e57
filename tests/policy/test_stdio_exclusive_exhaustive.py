"""The ledger of a child that serves one session, through every order of messages.

Frames, exits, abandons, cancellations and deadlines cross in every way (FLT-U1, U10, U11; MCP-G-1,
X-3 to X-7); every call has exactly one end. The search ends when no order leads to a state that was
not seen. The second half plants defects, each of which is to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.policy.stdio_calls import CallTable
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from tests.defects import Defect, planted
from tests.policy.search import search
from tests.policy.stdio_exclusive_model import (
    ASKING,
    FULL,
    FULL_WAITING,
    LEAVING,
    POSTING,
    ROUTING,
    SHAKING,
    STANDING,
    TIME,
    WAITING,
    ExclusiveSubject,
)

SCOPES = {
    "routing": ROUTING, "requests of the server": ASKING, "time": TIME,
    "clocks that stand": STANDING, "waiting": WAITING, "handshake": SHAKING,
    "requests that are not accepted": POSTING, "no room for streams": FULL,
    "no room for streams, and some wait": FULL_WAITING, "clients that leave": LEAVING,
}  # fmt: skip


@pytest.mark.parametrize("name", SCOPES)
def test_ledger_keeps_its_rules_in_every_order_of_messages(name: str) -> None:
    """One end for every call, its own answer and nothing after it; all else is counted."""
    findings = search(partial(ExclusiveSubject, SCOPES[name]))
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 100


POLICY = ExclusivePolicy
DEFECTS = {
    # Answers and ends.
    Defect("an id in flight is used again", POLICY, "_submit",
           "elif self._calls.find(request.id) is not None:", "elif False:"): ROUTING,
    Defect("an answer leaves its call in flight", CallTable, "answer",
           "self._leave(call)", "pass"): ROUTING,
    Defect("a streaming call is answered past its stream", CallTable, "answer",
           "if call.streaming:", "if False:"): ROUTING,
    Defect("the answer does not end the stream", CallTable, "answer",
           "final=True", "final=False"): ROUTING,
    Defect("a call becomes a stream twice", CallTable, "stream",
           "call.streaming = True", "pass"): ROUTING,
    Defect("a message goes past the stream", CallTable, "emit",
           "self.stream(call, effects)", "pass"): ROUTING,
    Defect("an answer to nothing is not counted", POLICY, "_received",
           "effects.append(e.DropFrame(\"response to no call in flight\"))", "pass"): ROUTING,
    Defect("ids that look alike are the same", CallTable, "find",
           "self._by_id.get(upstream_id)",
           "self._by_id.get(upstream_id.strip(b'\"')) or self._by_id.get(upstream_id)"): ROUTING,
    Defect("any answer is the oldest call's", CallTable, "find",
           "self._by_id.get(upstream_id)",
           "self._by_id.get(upstream_id) and next(iter(self._by_call.values()))"): ROUTING,
    Defect("a call that is over can be found", CallTable, "_leave",
           "del self._by_id[call.upstream_id]", "pass"): ROUTING,
    Defect("a child that ends forgets its calls", CallTable, "fail_all",
           "effects.append(e.FailCall(call.id, reason, text, executed))", "pass"): ROUTING,
    Defect("a request never written may have been executed", CallTable, "fail_all",
           "call.unsent or call.id in unwritten", "call.unsent"): ROUTING,
    Defect("a child that ends leaves the standalone stream", POLICY, "exited",
           "effects.append(e.CloseStandalone(self._session_key))", "pass"): ROUTING,
    # Progress.
    Defect("progress goes on after the end", CallTable, "_leave",
           "del self._by_token[token]", "pass"): ROUTING,
    Defect("progress of nobody is not counted", POLICY, "_notified",
           "effects.append(e.DropFrame(\"progress of no call in flight\"))", "pass"): ROUTING,
    Defect("a token is taken for an id", POLICY, "_notified",
           "self._calls.find_by_token(frame.progress_token())",
           "self._calls.find(frame.progress_token())"): ROUTING,
    # What names no call.
    Defect("a request goes to the standalone stream though one call runs", POLICY,
           "_call_for_unnamed", "len(calls) == 1 or ", ""): ROUTING,
    Defect("a request of several calls goes to the last", POLICY, "_call_for_unnamed",
           "(calls and not self._standalone_open)", "calls"): ROUTING,
    Defect("a request of several calls goes to the first", POLICY, "_call_for_unnamed",
           "return calls[-1]", "return calls[0]"): ROUTING,
    Defect("a request of several calls waits", POLICY, "_call_for_unnamed",
           "len(calls) == 1 or (calls and not self._standalone_open)", "len(calls) == 1"): ROUTING,
    Defect("any notification goes to the call", POLICY, "_notified",
           "elif frame.method == LOG_MESSAGE:", "else:\n        call = self._call_for_unnamed()\n"
           "    if False:"): ROUTING,
    Defect("what waits is lost", POLICY, "_open_standalone",
           "self._to_standalone(frame, effects)", "pass"): WAITING,
    Defect("what waited is given again", POLICY, "_open_standalone",
           "waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0",
           "waiting = self._waiting"): WAITING,
    Defect("what waited counts for ever", POLICY, "_open_standalone",
           "self._waiting, deque(), 0", "self._waiting, deque(), self._waiting_bytes"): WAITING,
    Defect("a stream that is over gets messages", POLICY, "standalone_ended",
           "self._standalone_open = False", "pass"): ROUTING,
    Defect("a handshake gets what names no call", CallTable, "eligible",
           "if call.method != INITIALIZE", ""): SHAKING,
    Defect("a handshake gets progress", CallTable, "enter",
           " and call.method != INITIALIZE", ""): SHAKING,
    Defect("a handshake becomes a stream", CallTable, "sweep",
           " and call.method != INITIALIZE", ""): SHAKING,
    Defect("a handshake is cancelled", CallTable, "_cancel",
           " and call.method != INITIALIZE", ""): SHAKING,
    # Requests of the server.
    Defect("an answer to nothing is passed on", POLICY, "_send",
           "if sent.id is None or sent.id not in self._open_requests:", "if False:"): ASKING,
    Defect("a request can be answered twice", POLICY, "_close_request",
           "self._open_requests.pop(request_id, None)",
           "self._open_requests.get(request_id)"): ASKING,
    Defect("an open id is asked for again", POLICY, "_requested",
           "if frame.id in self._open_requests:", "if False:"): ASKING,
    Defect("a request that was taken back is told to a call that is over", POLICY,
           "_close_request", "call is None or call.over", "call is None"): ASKING,
    Defect("a request that was taken back is told to everybody", POLICY, "_notified",
           "call = None if request_id is None else self._close_request(request_id, now_s)",
           "self._close_request(request_id, now_s); call = None"): ASKING,
    Defect("a request that nobody came for is forgotten", POLICY, "_give_up_waiting",
           "self._refuse(frame.id, \"the client has no stream open\", now_s, effects)", "pass"
           ): WAITING,
    Defect("a request that was taken back is answered", POLICY, "_give_up_waiting",
           "and frame.id in self._open_requests", ""): WAITING,
    Defect("what waits is kept for ever", POLICY, "_expire_waiting",
           "self._give_up_waiting(now_s, effects)", "break"): WAITING,
    # The clock.
    Defect("the clock runs while the client is asked", CallTable, "_mind_clock",
           "call.stands_since_s = now_s", "pass"): TIME,
    Defect("each request has its own time", CallTable, "pause",
           "if not call.open_requests:", "if True:"): STANDING,
    Defect("the clock of a cancelled call stands still", CallTable, "_mind_clock",
           " and not call.cancelled", ""): TIME,
    Defect("any answer starts the clock", CallTable, "resume",
           "call.open_requests.discard(request_id)", "call.open_requests.clear()"): STANDING,
    Defect("no answer starts the clock", CallTable, "resume",
           "self._mind_clock(call, now_s)", "pass"): TIME,
    Defect("the time of standing still is lost", CallTable, "_mind_clock",
           "call.deadline_s += now_s - call.stands_since_s", "pass"): TIME,
    Defect("the clock stands still for a client that is away", CallTable, "_mind_clock",
           " and not call.away", ""): LEAVING,
    Defect("the clock goes on for a client that is back", CallTable, "client_moved",
           "call.away = not here", "call.away = True"): LEAVING,
    Defect("a client is waited for anew when it is back", CallTable, "client_moved",
           "call.away = not here", "call.away, call.asked_s = not here, now_s"): LEAVING,
    Defect("a client that leaves is seen at the next question", CallTable, "client_moved",
           "self._mind_clock(call, now_s)", "pass"): LEAVING,
    Defect("a cancelled call has all its time", CallTable, "cancelled",
           "min(call.deadline_s, now_s + CANCELLED_S_MAX)", "call.deadline_s"): TIME,
    Defect("a cancelled call has more time than before", CallTable, "cancelled",
           "min(call.deadline_s, now_s + CANCELLED_S_MAX)", "now_s + CANCELLED_S_MAX"): TIME,
    Defect("a cancelled call fails", CallTable, "_expire", "if call.cancelled:", "if False:"): TIME,
    Defect("a cancelled call is cancelled again", CallTable, "_cancel",
           "not call.cancelled and ", ""): TIME,
    Defect("a call that is late is not cancelled", CallTable, "_expire",
           "self._cancel(call, effects)", "pass"): TIME,
    Defect("a call that is late is forgotten", CallTable, "_expire",
           "effects.append(e.FailCall(call.id, Reason.UPSTREAM_TIMEOUT, text, executed))", "pass"
           ): TIME,
    Defect("a call that was given up is not cancelled", CallTable, "abandon",
           "self._cancel(call, effects)", "pass"): ROUTING,
    Defect("a silent call stays pending", CallTable, "sweep",
           "self.stream(call, effects)", "pass"): TIME,
    Defect("a cancelled pending call has no stream to end", CallTable, "_end_unanswered",
           "self.stream(call, effects)  # so that a pending one has something to end", "pass"
           ): TIME,
    Defect("the client's cancellation is kept from the server", POLICY, "_send",
           "self._calls.cancelled(call, now_s, effects)",
           "self._calls.cancelled(call, now_s, effects)\n            return"): ROUTING,
    # Requests that the server of HTTP+SSE did not accept.
    Defect("a request that was not accepted stays in flight", CallTable, "fail",
           "self._give_up(call)", "pass"): POSTING,
    Defect("a request that was not accepted is forgotten", CallTable, "fail",
           "effects.append(e.FailCall(call.id, failed.reason, failed.text, failed.executed))",
           "pass"): POSTING,
    Defect("a request that broke was not executed", CallTable, "fail",
           "failed.text, failed.executed", "failed.text, Executed.NO"): POSTING,
    Defect("a cancelled request that was not accepted fails", CallTable, "fail",
           "if call.cancelled:", "if False:"): POSTING,
    Defect("a call that was answered fails", CallTable, "fail",
           "if call is None:", "if call is None:\n        effects.append(e.FailCall("
           "failed.call_id, failed.reason, failed.text, failed.executed))"): POSTING,
    # No room for a stream.
    Defect("a refused stream is told of", CallTable, "emit", "if call.alone:", "if False:"): FULL,
    Defect("a stream is asked for again", CallTable, "stream", "and not call.alone", ""): FULL,
    Defect("an answer goes to no stream", CallTable, "leave_alone",
           "call.streaming, call.alone = False, True", "call.alone = True"): FULL,
    Defect("a server asks within a call without a stream", CallTable, "eligible",
           "if not call.alone", ""): FULL,
    Defect("a server waits for who cannot be asked", POLICY, "_stream_refused",
           "self._refuse(request_id, CANNOT_BE_ASKED, now_s, effects)", "pass"): FULL,
    # Timer and drain.
    Defect("a stale timer counts", POLICY, "handle",
           "if generation == self._generation:", "if True:"): TIME,
    Defect("the timer rings once", POLICY, "handle", "self._armed = False", "pass"): TIME,
    Defect("nobody watches what waits", POLICY, "_finish",
           "(len(self._calls) or self._waiting)", "len(self._calls)"): WAITING,
    Defect("a drain lets calls begin", POLICY, "_submit", "if self._draining:", "if False:"
           ): ASKING,
    Defect("a drain does not wait for calls", POLICY, "_finish",
           "and not len(self._calls)", ""): ASKING,
    Defect("a drain waits for a stream without an end", POLICY, "_finish",
           "effects.append(e.CloseStandalone(self._session_key))", "pass"): ASKING,
    Defect("a drain is over twice", POLICY, "_finish", "self._drained = True", "pass"): ASKING,
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """What the search would say if the ledger were wrong."""
    with planted(defect):
        findings = search(partial(ExclusiveSubject, DEFECTS[defect]))
    assert findings.violation is not None, f"{findings.states} states, and nothing found"
    assert len(findings.trace) <= 9

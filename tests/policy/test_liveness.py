"""A server that is silent is asked whether it lives, and given up only when it says nothing.

FLT-U4, MCP-S-24. Every order of what can happen, in the second half with defects that show.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator

import pytest

from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.policy.liveness import PING_S, QUIET_S, Liveness
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search
from tests.policy.stdio_frames import notification, result

PINGS_MAX = 3
WORD = notification("notifications/message")


class LivenessSubject(Subject):
    """One channel: calls expire, the server says something, time passes."""

    def __init__(self) -> None:
        self.policy = Liveness()
        self.now_s = 1000.0
        self.heard_s: float | None = None
        self.asked: bytes | None = None
        self.ids: list[bytes] = []

    def moves(self) -> Iterator[str]:
        yield from ("says something", "a call expires", "a check asks", "time passes")
        if self.ids:
            yield from ("answers the ping", "ping is due")
        if len(self.ids) > 1:
            yield from ("answers an old ping", "old ping is due")

    def make(self, move: str) -> None:
        match move:
            case "time passes":
                self.now_s += QUIET_S / 2
            case "a call expires":
                quiet = self.heard_s is not None and self.now_s - self.heard_s >= QUIET_S
                self._ask(self.policy.call_expired(self.now_s), quiet)
            case "a check asks":
                self._ask(self.policy.ask(), True)
            case "says something" | "answers the ping" | "answers an old ping":
                self._hear(move)
            case "ping is due":
                self._due(len(self.ids))
            case "old ping is due":
                self._due(len(self.ids) - 1)

    def _ask(self, effects: list[LedgerEffect], wanted: bool) -> None:
        if self.asked is not None or not wanted:
            check(effects == [], "who was heard, or is asked already, is not asked")
            return
        check(len(effects) == 2, "who has been silent is asked, and not for ever")
        ping, wake = effects
        assert isinstance(ping, e.WriteFrame)
        message = json.loads(ping.data)
        check(message["method"] == "ping", "it is asked by ping")
        id = json.dumps(message["id"]).encode()
        check(id not in self.ids, "each ping has an id of its own")
        self.asked = id
        self.ids.append(id)
        check(wake == e.WakeLiveness(PING_S, len(self.ids)), "it has its time")

    def _hear(self, move: str) -> None:
        id = {"answers the ping": -1, "answers an old ping": -2}.get(move)
        frame = WORD if id is None else result(self.ids[id])
        ours = id == -1
        check(self.policy.heard(frame, self.now_s) == ours, "only what we asked is answered to us")
        self.heard_s, self.asked = self.now_s, None

    def _due(self, generation: int) -> None:
        effects = self.policy.due(generation)
        hung = self.asked is not None and self.ids[generation - 1] == self.asked
        check(bool(effects) == hung, "it is given up when it has said nothing, and only then")

    def key(self) -> Hashable:
        quiet = None if self.heard_s is None else min(self.now_s - self.heard_s, QUIET_S)
        return quiet, self.asked is not None, min(len(self.ids), PINGS_MAX)


def test_server_is_asked_and_given_up_by_the_rules_in_every_order() -> None:
    findings = search(LivenessSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 10


@pytest.mark.parametrize("defect", [
    Defect("it is asked at once", Liveness, "call_expired", "now_s - self._heard_s < QUIET_S",
           "False"),
    Defect("it is asked again and again", Liveness, "ask", "self._asked = True", "pass"),
    Defect("ids are used again", Liveness, "ask", "self._serial += 1", "pass"),
    Defect("a word is no sign of life", Liveness, "heard", "self._heard_s = now_s", "pass"),
    Defect("only the answer is a sign of life", Liveness, "heard",
           "self._asked = False", "self._asked &= frame.id != self._ping_id"),
    Defect("the ledger hears of our ping", Liveness, "heard", "frame.id == self._ping_id", "False"),
    Defect("whatever comes is taken for the answer", Liveness, "heard",
           "frame.id == self._ping_id", "True"),
    Defect("an old timer counts", Liveness, "due", " or generation != self._serial", ""),
    Defect("it is never given up", Liveness, "due", "not self._asked or", "True or"),
], ids=str)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(LivenessSubject)
    assert findings.violation is not None

"""Sessions that an upstream has lost are opened anew once, whoever finds out and when."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import count

import pytest
from msgspec.structs import replace

from proxy_actors.errors import Reason
from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect
from proxy_actors.messages.sessions import Session
from proxy_actors.policy.renewals import Renewals
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search

FIRST = Session("key", "principal", "up", "", "id-0", "2025-11-25", b"{}")
ASKS_MAX = 3
LIVES_MAX = 3


class RenewalSubject(Subject):
    """One session, whose ids follow each other; who asks does so with any that there has been."""

    def __init__(self) -> None:
        self.policy = Renewals()
        self.numbers = count(1)
        self.waiting: list[int] = []
        self.asked = 0
        self.present = 0
        self.known = True
        self.running = False

    def moves(self) -> Iterator[tuple[str, int]]:
        if self.asked < ASKS_MAX:
            for life in range(self.present + 1):
                yield "ask", life
        if self.running:
            if self.present < LIVES_MAX:
                yield "renewed", 0
            yield "failed", 0
        yield "forget", 0

    def make(self, move: tuple[str, int]) -> None:
        name, life = move
        if name == "ask":
            self._ask(life)
        elif name == "forget":
            self.policy.forget(FIRST.key)
            self.known = False
        else:
            self._end(name == "renewed")

    def _ask(self, life: int) -> None:
        self.asked += 1
        ask_id = next(self.numbers)
        effects = self.policy.ask(at(life), ask_id)
        if not self.running and life < self.present and self.known:
            check(effects == [m.AnswerRenewal(ask_id, at(self.present))],
                  "who finds out late gets what there is")
            return
        check(effects == ([] if self.running else [m.Renew(at(life))]), "one renewal at a time")
        self.waiting.append(ask_id)
        self.running = True

    def _end(self, renewed: bool) -> None:
        if renewed:
            self.present += 1
            self.known = True
        session = at(self.present) if renewed else None
        outcome = m.RenewalEnded(FIRST.key, session, (), Reason.UPSTREAM_TIMEOUT, "late")
        effects: list[HttpUpstreamEffect] = self.policy.ended(outcome)
        check(effects == [m.AnswerRenewal(x, session, Reason.UPSTREAM_TIMEOUT, "late")
                          for x in self.waiting], "all who wait hear of it, once")
        self.waiting, self.running = [], False

    def settle(self) -> None:
        if self.running:
            self._end(False)

    def key(self) -> Hashable:
        return len(self.waiting), self.asked, self.present, self.known, self.running


def at(life: int) -> Session:
    return replace(FIRST, upstream_session_id=f"id-{life}")


def test_session_is_opened_anew_once_in_every_order() -> None:
    findings = search(RenewalSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 20


@pytest.mark.parametrize("defect", [
    Defect("each one renews", Renewals, "ask", "if waiting is not None:", "if False:"),
    Defect("who is late renews again", Renewals, "ask",
           "if present is not None and", "if False and"),
    Defect("what is lost again is not renewed", Renewals, "ask",
           " and present.place != session.place", ""),
    Defect("those who come to it are not answered", Renewals, "ask",
           "waiting.append(ask_id)", "pass"),
    Defect("an outcome is told again", Renewals, "ended",
           "self._waiting.pop(", "self._waiting.get("),
    Defect("the new one is not known", Renewals, "ended",
           "self._renewed[outcome.key] = outcome.session", "pass"),
    Defect("an ended session is known", Renewals, "forget", "self._renewed.pop(key, None)", "pass"),
], ids=str)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(RenewalSubject)
    assert findings.violation is not None

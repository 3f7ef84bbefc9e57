"""The end of a process is one failure of its endpoint, in every order of calls and exits."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pytest

from proxy_actors.messages.guard import CallFailed, Fault
from proxy_actors.policy.exits import ONE_EXIT_S, Exits
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search

ENDPOINTS = ("a", "b")
STEP_S = ONE_EXIT_S / 2


class ExitsSubject(Subject):
    """Two endpoints; the model knows how many steps ago an exit was counted, up to two."""

    def __init__(self) -> None:
        self.exits = Exits()
        self.steps = 0
        self.counted_at = dict.fromkeys(ENDPOINTS, -2)

    def moves(self) -> Iterator[tuple[str, Fault | None]]:
        yield "", None
        for endpoint in ENDPOINTS:
            yield endpoint, Fault.EXIT
            yield endpoint, Fault.RESET

    def make(self, move: tuple[str, Fault | None]) -> None:
        endpoint, fault = move
        if fault is None:
            self.steps += 1
            return
        counts = self.exits.counts(CallFailed(endpoint, "t", fault, 1.0), self.steps * STEP_S)
        expected = fault is not Fault.EXIT or self.age(endpoint) == 2
        check(counts is expected, "an exit counts once in its time, and all else always")
        if fault is Fault.EXIT and expected:
            self.counted_at[endpoint] = self.steps

    def age(self, endpoint: str) -> int:
        return min(self.steps - self.counted_at[endpoint], 2)

    def key(self) -> Hashable:
        ages = tuple(self.age(endpoint) for endpoint in ENDPOINTS)
        counted = self.exits._counted_s
        known = (counted.get(endpoint, -2 * STEP_S) for endpoint in ENDPOINTS)
        return ages, tuple(min(round(self.steps - at_s / STEP_S), 2) for at_s in known)


def test_exit_counts_once_in_every_order() -> None:
    findings = search(ExitsSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states == 9


@pytest.mark.parametrize("defect", [
    Defect("every call counts", Exits, "counts", "< ONE_EXIT_S", "< 0"),
    Defect("all faults are one", Exits, "counts", "is not Fault.EXIT", "is None"),
    Defect("endpoints are not told apart", Exits, "counts",
           "counted_s = self._counted_s.get(call.endpoint)",
           "counted_s = max(self._counted_s.values(), default=None)"),
    Defect("a crash loop counts once", Exits, "counts", "return False",
           "return bool(self._counted_s.update({call.endpoint: now_s}))"),
], ids=str)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert search(ExitsSubject).violation is not None

"""What is known of calls is found while they run, and no more is kept than there is room for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pytest

from proxy_actors.policy.calls_known import CallsKnown
from tests.defects import Defect, planted
from tests.policy.search import Subject, check, search

CALLS = [("a", b"1"), ("a", b'"1"'), ("b", b"1")]
ROOM = 2


class KnownSubject(Subject):
    """Calls of two sessions, which use the same ids; the model is a list in the order of entry."""

    def __init__(self) -> None:
        self.known: CallsKnown[str] = CallsKnown(ROOM)
        self.rows: list[tuple[tuple[str, bytes], str]] = []

    def moves(self) -> Iterator[tuple[str, tuple[str, bytes]]]:
        for call in CALLS:
            yield "first", call
            yield "again", call
            yield "leave", call

    def make(self, move: tuple[str, tuple[str, bytes]]) -> None:
        name, call = move
        self.rows = [row for row in self.rows if row[0] != call]
        if name == "leave":
            self.known.leave(*call)
        else:
            self.known.enter(*call, name)
            self.rows = [*self.rows, (call, name)][-ROOM:]
        check(len(self.known) == len(self.rows), "a row for each of the latest")
        for call in CALLS:
            check(self.known.find(*call) == dict(self.rows).get(call), "found as entered last")
        check(self.known.find("a", None) is None, "what names no call finds none")

    def key(self) -> Hashable:
        return tuple(self.rows)


def test_calls_are_found_in_every_order() -> None:
    findings = search(KnownSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states == 1 + 6 + 6 * 4


@pytest.mark.parametrize("defect", [
    Defect("there is no bound", CallsKnown, "enter", ">= self._calls_max", "< 0"),
    Defect("the row of before keeps its age", CallsKnown, "enter",
           "self._rows.pop((session_key, request_id), None)", "pass"),
    Defect("sessions are not told apart", CallsKnown, "leave",
           "self._rows.pop((session_key, request_id), None)",
           "[self._rows.pop(x) for x in list(self._rows) if x[1] == request_id]"),
], ids=str)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert search(KnownSubject).violation is not None

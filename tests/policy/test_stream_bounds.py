"""How many streams there may be, and what their rings hold together, in every order.

MCP-S-16: who comes back gets exactly what followed, or a refusal. The second half plants defects.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_bounds import StreamBooks, StreamBound, StreamKind, StreamOwner
from proxy_actors.policy.stream_limits import StreamLimits
from tests.defects import Defect, planted
from tests.policy.search import Subject, search
from tests.policy.stream_bounds_model import BooksSubject, BudgetSubject

SUBJECTS: dict[str, Callable[[], Subject]] = {"books": BooksSubject, "budget": BudgetSubject}


def test_narrowest_bound_that_is_reached_is_told() -> None:
    """A client that has used up its own share is not told that the proxy is full."""
    limits = StreamLimits(streams_max=1, streams_per_principal_max=1, streams_per_session_max=1)
    books = StreamBooks(limits, {"u": 1})
    owner = StreamOwner("s", "p", "u")
    books.enter("call-1", StreamKind.CALL, owner)
    assert books.reached(owner) is StreamBound.SESSION
    assert books.reached(StreamOwner("t", "p", "u")) is StreamBound.PRINCIPAL
    assert books.reached(StreamOwner("t", "q", "u")) is StreamBound.UPSTREAM
    assert books.reached(StreamOwner("t", "q", "v")) is StreamBound.ALL
    books.leave("call-1")
    assert books.reached(owner) is None


def test_ring_that_has_lost_all_begins_anew_with_its_next_event() -> None:
    budget = RingBudget(10)
    unread, other = ReplayRing(StreamLimits(), budget), ReplayRing(StreamLimits(), budget)
    unread.append(b"12345", 0.0)
    unread.is_unread(over=False)
    other.append(b"1234567", 0.0)
    assert unread.since(0) is None
    assert unread.since(1) == []
    unread.append(b"x", 0.0)
    assert unread.since(1) == [b"x"]
    assert (budget.held, budget.taken) == (8, 1)


@pytest.mark.parametrize("name", SUBJECTS)
def test_bounds_hold_in_every_order(name: str) -> None:
    """Each row is closed once; who may lose its replay does so in order, and nobody else."""
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 60


DEFECTS = {
    Defect("a session may have one too many", StreamBooks, "reached",
           "of_session >=", "of_session >"): "books",
    Defect("a principal may have one too many", StreamBooks, "reached",
           "of_name >=", "of_name >"): "books",
    Defect("an upstream may have one too many", StreamBooks, "reached",
           "free_there <= 0", "free_there < 0"): "books",
    Defect("there may be one too many", StreamBooks, "reached",
           "free <= 0", "free < 0"): "books",
    Defect("a stream of no bounded upstream is refused", StreamBooks, "reached",
           "math.inf", "0"): "books",
    Defect("one client may have all of an upstream", StreamBooks, "reached",
           "may_have_one_more(of_both, free_there)", "True"): "books",
    Defect("one client may have all", StreamBooks, "reached",
           "may_have_one_more(of_name, free)", "True"): "books",
    Defect("what a client has elsewhere counts", StreamBooks, "reached",
           "may_have_one_more(of_both, ", "may_have_one_more(of_name, "): "books",
    Defect("who has no name has a share", StreamBooks, "reached",
           "or not owner.name", ""): "books",
    Defect("a stream's end is counted as often as it is seen", StreamBooks, "leave",
           "self._rows.get(stream)",
           "self._rows.get(stream, (StreamKind.CALL, StreamOwner(\"s1\")))"): "books",
    Defect("a row is never closed", StreamBooks, "leave",
           "self._write(stream, None, *row, -1)", "pass"): "books",
    Defect("names are counted for ever", StreamBooks, "leave",
           "del self._counts[key]", "pass"): "books",
    Defect("what is read is taken", ReplayRing, "is_read",
           "self._budget.read(self)", "pass"): "budget",
    Defect("the newest unread is taken first", RingBudget, "make_room",
           "next(iter(self._ended or self._unread))",
           "next(reversed(self._ended or self._unread))"): "budget",
    Defect("the unread are taken before the ended", RingBudget, "make_room",
           "self._ended or self._unread))", "self._unread or self._ended))"): "budget",
    Defect("one that is unread again has waited from then on", RingBudget, "unread",
           "self._unread.setdefault(ring)",
           "self._unread.pop(ring, None); self._unread[ring] = None"): "budget",
    Defect("a ring is taken that is not there any more", ReplayRing, "close",
           "self._budget.read(self)", "pass"): "budget",
    Defect("bytes of a ring that ends are held", ReplayRing, "drop",
           "self._budget.held, self._bytes = self._budget.held - self._bytes, 0",
           "self._bytes = 0"): "budget",
    Defect("bytes are given back twice", ReplayRing, "drop",
           "self._budget.held, self._bytes = self._budget.held - self._bytes, 0",
           "self._budget.held -= self._bytes"): "budget",
    Defect("bytes that are dropped are held", ReplayRing, "expire",
           "self._bytes, budget.held = self._bytes - size, budget.held - size",
           "self._bytes -= size"): "budget",
    Defect("nobody makes room", ReplayRing, "append",
           "budget.make_room(size)", "pass"): "budget",
    Defect("what was taken once is never taken again", ReplayRing, "append",
           "budget.unread(self, over=False)", "pass"): "budget",
    Defect("a ring keeps its own where none other has any", ReplayRing, "expire",
           "or budget.held > budget.bytes_max", ""): "budget",
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(SUBJECTS[DEFECTS[defect]])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"

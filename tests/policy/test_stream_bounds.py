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
           "self._budget.read(self, self._share)", "pass"): "budget",
    Defect("the newest unread is taken first", RingBudget, "make_room",
           "next(iter(giver.ended or giver.unread))",
           "next(reversed(giver.ended or giver.unread))"): "budget",
    Defect("the unread are taken before the ended", RingBudget, "make_room",
           "giver.ended or giver.unread))", "giver.unread or giver.ended))"): "budget",
    Defect("one that is unread again has waited from then on", RingBudget, "unread",
           "share.unread.setdefault(ring)",
           "share.unread.pop(ring, None); share.unread[ring] = None"): "budget",
    Defect("a ring is taken that is not there any more", ReplayRing, "close",
           "self._budget.read(self, self._share)", "pass"): "budget",
    Defect("bytes of a ring that ends are held", ReplayRing, "drop",
           "budget.held - n", "budget.held"): "budget",
    Defect("bytes of a ring that ends are its owner's", ReplayRing, "drop",
           "share.held - n", "share.held"): "budget",
    Defect("bytes are given back twice", ReplayRing, "drop",
           "= 0, budget", "= n, budget"): "budget",
    Defect("bytes that are dropped are held", ReplayRing, "expire",
           "budget.held - n", "budget.held"): "budget",
    Defect("bytes that are dropped are their owner's", ReplayRing, "expire",
           "share.held - n", "share.held"): "budget",
    Defect("nobody makes room", ReplayRing, "append",
           "budget.make_room(share, n)", "pass"): "budget",
    Defect("what was taken once is never taken again", ReplayRing, "append",
           "budget.unread(self, share, self._over)", "pass"): "budget",
    Defect("a ring keeps its own where none other has any", ReplayRing, "expire",
           "and budget.has_too_much(share)", "and False"): "budget",
    Defect("what a first reader is to get is dropped", ReplayRing, "expire",
           "and not self._awaited", "and True"): "budget",
    Defect("a first reader is awaited for ever", ReplayRing, "is_read",
           "self._awaited, self._read = False, True", "self._read = True"): "budget",
    Defect("what was kept for a first reader is kept on", ReplayRing, "is_read",
           "self.expire(now_s)", "pass"): "budget",
    Defect("one owner may hold all", RingBudget, "has_too_much",
           "free = self._bytes_max - self.held - more_bytes\n"
           "    return not may_have_one_more(share.held + more_bytes - 1, free + 1)",
           "return self.held + more_bytes > self._bytes_max"): "budget",
    Defect("there is plenty up to the end", RingBudget, "__init__",
           "bytes_max * SHARE_OF_REST / (SHARE_OF_REST + 1)", "bytes_max"): "budget",
    Defect("who holds least makes room", RingBudget, "make_room",
           "max(self._giving", "min(self._giving"): "budget",
    Defect("others make room first", RingBudget, "make_room",
           "share.held + more_bytes >= giver.held", "share.held > giver.held"): "budget",
    Defect("who holds less makes room", RingBudget, "make_room",
           "elif giver.held <= share.held:", "elif False:"): "budget",
    Defect("who holds as much makes room", RingBudget, "make_room",
           "giver.held <= share.held", "giver.held < share.held"): "budget",
    Defect("who has nothing to give is asked", RingBudget, "read",
           "self._giving.pop(share, None)", "pass"): "budget",
    Defect("who had rings is remembered", RingBudget, "leave",
           "del self._shares[owner]", "pass"): "budget",
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        findings = search(SUBJECTS[DEFECTS[defect]])
    assert findings.violation is not None, f"{findings.states} states, and nothing found"

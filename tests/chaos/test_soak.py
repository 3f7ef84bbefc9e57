"""The books of a soak and its look at growth: what must not be is found where it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from chaos.footing import Footing
from chaos.ledger import ANSWERED, ERROR
from chaos.soak import Sample, slope, uneven
from chaos.traffic import Books


@pytest.fixture
def books() -> Books:
    return Books(deadline_s=5.0)


def ended(books: Books, outcome: str, executed: str = "", took_s: float = 0.1) -> str:
    row = books.begin("http")
    row.outcome, row.executed, row.took_s = outcome, executed, took_s
    books.close(row)
    return row.n


def checked(books: Books, journal: Path, *executed: str) -> str:
    journal.write_text("".join(f"{n}\n" for n in executed))
    books.check(journal)
    books.check_missing()
    return " ".join(books.wrong)


def test_calls_that_are_as_they_should_be_are_not_wrong(books: Books, tmp_path: Path) -> None:
    answered = ended(books, ANSWERED)
    perhaps = [ended(books, ERROR, "unknown") for _ in range(2)]
    ended(books, ERROR, "no")
    assert checked(books, tmp_path / "journal", answered, perhaps[0]) == ""
    assert books.total == 4


def test_call_that_was_executed_twice_is_found(books: Books, tmp_path: Path) -> None:
    n = ended(books, ANSWERED)
    assert "executed 2 times" in checked(books, tmp_path / "journal", n, n)


def test_call_that_was_executed_though_it_says_no_is_found(books: Books, tmp_path: Path) -> None:
    assert "expected never" in checked(books, tmp_path / "journal", ended(books, ERROR, "no"))


def test_answer_of_nobody_is_found(books: Books, tmp_path: Path) -> None:
    ended(books, ANSWERED)
    assert "executed by nobody" in checked(books, tmp_path / "journal")


def test_late_end_is_found(books: Books) -> None:
    ended(books, ANSWERED, took_s=6.5)
    assert "took 6.5 s" in books.wrong[0]


def test_growth_in_the_second_half_is_found() -> None:
    """And not what grew while it warmed up."""
    flat = [Sample(n * 5.0, {"fds": min(40.0 + n, 60.0)}) for n in range(100)]
    growing = [Sample(n * 5.0, {"fds": 40.0 + n}) for n in range(100)]
    assert (uneven("fds", flat), slope("fds", flat)) == ("", 0.0)
    assert "grew by 49.0" in uneven("fds", growing)
    assert slope("fds", growing) == pytest.approx(720.0)


@pytest.mark.parametrize(
    "changes",
    [{"fds": 11}, {"processes": 4}, {"zombies": 1}, {"actors": Counter(Root=2)},
     {"owed": {"pool leased": 1}}, {"greenlets": 21}, {"processes": 2}],
    ids=str,
)  # fmt: skip
def test_what_is_left_over_is_found(changes: dict[str, object]) -> None:
    before = Footing(10, 3, 0, Counter(Root=1), {}, 20)
    after = Footing(**{**vars(before), **changes})  # type: ignore[arg-type]
    assert before.differences(before) == []
    (told,) = after.differences(before)
    assert next(iter(changes)) in told


def test_connection_that_was_closed_since_is_no_leak() -> None:
    before = Footing(10, 3, 0, Counter(Root=1), {}, 20)
    after = Footing(9, 3, 0, Counter(Root=1), {}, 20)
    assert after.differences(before) == []

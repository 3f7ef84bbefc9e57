"""A dozen rows of the scorecard on real processes; `make chaos` plays all of them.

And the oracle itself: what must not be is found in a ledger where it is.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from chaos import repeats, report
from chaos.ledger import SECRET, Call, Ledger
from chaos.runner import FAILED, PASSED, play
from chaos.scorecard import NOT_PLAYED, ROWS, SCENARIOS
from tests.wire.session_client import Answer

SEED = 1
# `make chaos` judges times; here a hang must not pass, whatever else the machine does.
LENIENCY = 20.0
PLAYED = ("U1", "U6", "U12", "N4", "C9", "P5", "P17", "P19")


@pytest.mark.parametrize("id", PLAYED)
def test_proxy_bears(id: str) -> None:
    """RELIABILITY 6.1: all parts of the oracle, and the row's own criterion."""
    verdict = play(id, SEED, LENIENCY)
    print(report.line(verdict))
    assert (verdict.result, verdict.told) == (PASSED, ())


def test_row_is_played_again_on_one_proxy_whose_memory_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RELIABILITY 6.1, O2: here any memory at all is too much, and nothing else is wrong."""
    monkeypatch.setattr(repeats, "GROWTH_MAX", -1.0)
    monkeypatch.setattr(repeats, "TRIM_S", 0.0)
    verdict = repeats.repeat("U10", SEED, 2, LENIENCY)
    [told] = verdict.told
    assert (verdict.result, verdict.figures["plays"]) == (FAILED, 2)
    assert told.startswith("O2: memory grew")


def test_every_row_is_played_or_says_why_not() -> None:
    assert len(ROWS) == 16 + 20 + 17 + 24
    assert sorted([*SCENARIOS, *NOT_PLAYED]) == sorted(ROWS)


# What the oracle sees.


def answer(message: object, status: int = 200) -> Answer:
    body = json.dumps(message).encode()
    return Answer(status, http.client.HTTPMessage(), body, [message])  # type: ignore[list-item]


def result(n: str, text: str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": n, "result": {"content": [{"type": "text", "text": text}]}}


def failure(n: str, **changes: object) -> dict[str, object]:
    data = {"reason": "process-exited", "upstream": "victim", "executed": "no", "requestId": "r"}
    error = {"code": -32603, "message": "it ended", "data": data | changes}
    return {"jsonrpc": "2.0", "id": n, "error": error}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def row(ledger: Ledger) -> Call:
    return ledger.begin("victim")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def told(ledger: Ledger, journal: Path, *executed: str) -> str:
    journal.write_text("".join(f"{n}\n" for n in executed))
    return " ".join(ledger.faults([journal], 5.0))


def test_call_that_is_as_it_should_be_is_no_fault(
    ledger: Ledger, row: Call, journal: Path
) -> None:
    ledger.end(row, answer(result(row.n, f"n={row.n}")))
    assert told(ledger, journal, row.n) == ""
    other = ledger.begin("victim")
    ledger.end(other, answer(failure(other.n), 502))
    assert told(ledger, journal, row.n) == ""
    assert ledger.tally("victim") == {"answered": 1, "process-exited": 1}


def test_call_without_an_end_is_found(ledger: Ledger, row: Call, journal: Path) -> None:
    assert "no outcome" in told(ledger, journal)
    ledger.cut(row, ConnectionResetError())
    assert "no answer" in told(ledger, journal)


def test_second_end_is_found(ledger: Ledger, row: Call, journal: Path) -> None:
    ledger.end(row, answer(result(row.n, row.n)))
    ledger.end(row, answer(result(row.n, row.n)))
    assert "two outcomes" in told(ledger, journal, row.n)


@pytest.mark.parametrize("id", ["victim-2", None])
def test_answer_of_somebody_else_is_found(
    ledger: Ledger, row: Call, journal: Path, id: str
) -> None:
    ledger.end(row, answer(result(id, row.n)))
    assert "somebody else's" in told(ledger, journal, row.n)


def test_content_of_somebody_else_is_found(ledger: Ledger, row: Call, journal: Path) -> None:
    ledger.end(row, answer(result(row.n, "victim-2")))
    assert "somebody else's" in told(ledger, journal, row.n)


def test_wrong_word_about_the_execution_is_found(
    ledger: Ledger, row: Call, journal: Path
) -> None:
    ledger.end(row, answer(failure(row.n), 502))
    assert "though its error says no" in told(ledger, journal, row.n)
    other = ledger.begin("victim")
    ledger.end(other, answer(result(other.n, other.n)))
    assert "never executed" in told(ledger, journal)


def test_second_execution_is_found(ledger: Ledger, row: Call, journal: Path) -> None:
    ledger.end(row, answer(result(row.n, row.n)))
    assert "executed 2 times" in told(ledger, journal, row.n, row.n)


def test_late_answer_is_found(ledger: Ledger, row: Call, journal: Path) -> None:
    row.began_s -= 6.5
    ledger.end(row, answer(result(row.n, row.n)))
    assert "the deadline is 5 s" in told(ledger, journal, row.n)


@pytest.mark.parametrize(
    ("message", "status", "found"),
    [
        (failure("victim-1"), 504, "with the status 504"),
        (failure("victim-1", upstream="other"), 502, "not the contract"),
        (failure("victim-2"), 502, "under the id"),
        (failure("victim-1", reason="tired"), 502, "tired with the status"),
        (failure("victim-1", cause="Errno 13"), 502, "of the inside"),
        (failure("victim-1", cause=SECRET), 502, "a secret"),
    ],
)
def test_error_that_breaks_the_contract_is_found(
    ledger: Ledger, row: Call, journal: Path, message: dict[str, object], status: int, found: str
) -> None:
    ledger.end(row, answer(message, status))
    assert found in told(ledger, journal)


@pytest.mark.parametrize("fair", [True, False])
def test_proxy_that_is_full_may_know_neither_server_nor_id(
    ledger: Ledger, row: Call, journal: Path, fair: bool
) -> None:
    """Only where it is said that it is."""
    ledger.at_its_limits = fair
    message = failure("", reason="overloaded")
    message["id"] = None
    del message["error"]["data"]["upstream"]  # type: ignore[index]
    ledger.end(row, answer(message, 503))
    assert (told(ledger, journal) == "") is fair


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (failure("victim-2", reason="overloaded"), "under the id"),
        (failure("victim-1", reason="overloaded", upstream="other"), "not the contract"),
        (failure("victim-1", reason="circuit-open", upstream=""), "not the contract"),
    ],
)
def test_proxy_that_is_full_breaks_no_other_rule(
    ledger: Ledger, row: Call, journal: Path, message: dict[str, object], found: str
) -> None:
    ledger.at_its_limits = True
    ledger.end(row, answer(message, 503))
    assert found in told(ledger, journal)

"""Every rule of the rule book is cited by the test, or the transcript, that proves it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# "HTTP-H6, H20 and HTTP-F1": the series is named once for several.
_CITATION = re.compile(r"\b(HTTP|SSE)-([A-Z]+\d+(?:(?:,| and|, and) [A-Z]+\d+\b)*)")

RULES = {
    "HTTP": [f"H{number}" for number in range(1, 22)] + [f"F{number}" for number in range(1, 10)],
    "SSE": [f"S{number}" for number in range(1, 13)],
}


def citations(text: str) -> set[str]:
    """Return the ids that a text cites one by one; a range proves nothing about each of its ids."""
    return {
        f"{series}-{number}"
        for series, numbers in _CITATION.findall(text)
        for number in re.findall(r"[A-Z]+\d+", numbers)
    }


def cited() -> set[str]:
    paths = [*TESTS.rglob("*.py"), *TESTS.rglob("*.txt")]
    return set().union(*(citations(path.read_text()) for path in paths if path != Path(__file__)))


@pytest.mark.parametrize("series", RULES)
def test_every_rule_is_cited(series: str) -> None:
    """RELIABILITY 2.1 and 2.2."""
    assert {f"{series}-{number}" for number in RULES[series]} - cited() == set()


def test_citations_are_read_one_by_one() -> None:
    """Else the test above would pass, or fail, for nothing."""
    assert citations("HTTP-H6, H20 and F1; MCP-S-1") == {"HTTP-H6", "HTTP-H20", "HTTP-F1"}
    assert citations("SSE-S12.") == {"SSE-S12"}
    assert citations("SSE-S1 to S9, THR-T4, S3") == {"SSE-S1"}

"""Which tests of `make test` name a row of the scorecard, as they say themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from chaos.scorecard import ROWS

TESTS = Path(__file__).parents[1] / "tests"
# "FLT-U1 to U4" names four rows; what belongs to another series (PYK-P6, MCP-C-1) names none.
_CITED = re.compile(r"(?<![\w-])(?:FLT-)?([UNCP])(\d{1,2})\b(?: to [UNCP]?(\d{1,2})\b)?")
_DOCUMENTED = re.compile(r'"""(.*?)"""|#(.*)', re.DOTALL)


def _named(text: str) -> Iterator[str]:
    for said in _DOCUMENTED.finditer(text):
        for series, first, last in _CITED.findall(said[1] or said[2] or ""):
            yield from (f"{series}{n}" for n in range(int(first), int(last or first) + 1))


@cache
def tests_by_row() -> dict[str, list[str]]:
    """The test files that name each row, those of the simulator first."""
    found: dict[str, list[str]] = {id: [] for id in ROWS}
    rooms = sorted(TESTS.rglob("test_*.py"), key=lambda x: ("sim" not in x.parts, str(x)))
    for path in rooms:
        for id in set(_named(path.read_text())) & found.keys():
            found[id].append(path.relative_to(TESTS).as_posix())
    return found


def simulated(id: str) -> list[str]:
    """The campaigns of the simulator that name a row."""
    return [path for path in tests_by_row()[id] if path.startswith("sim/")]

"""Names are safe to send, whatever they are made of, and never too many. RELIABILITY THR-T18."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors import metrics
from proxy_actors.metrics import Figure, Kind, Row
from proxy_actors.policy.metric_names import PART_CHARACTERS_MAX, MetricNames, sanitised


def requests(upstream: str, method: str, count: float = 1.0) -> Row:
    return Row(metrics.REQUESTS, (upstream, method), (count,))


@given(st.text())
def test_part_of_a_name_is_safe_whatever_it_was(part: str) -> None:
    """No line, colon or bar, which would be a metric of its own; no dot, which would be a path."""
    assert re.fullmatch(rf"[A-Za-z0-9_-]{{1,{PART_CHARACTERS_MAX}}}", sanitised(part))


@pytest.mark.parametrize(
    ("part", "safe"),
    [
        ("tools/call", "tools_call"),
        ("a.b", "a_b"),
        ("x:1|c\ny", "x_1_c_y"),
        ("café", "caf_"),
        ("", "_"),
        ("a" * 100, "a" * PART_CHARACTERS_MAX),
    ],
)
def test_part_is_still_to_be_recognised(part: str, safe: str) -> None:
    assert sanitised(part) == safe


def test_names_of_a_metric_are_bounded() -> None:
    """Those that came first keep theirs; the others share one, and what they tell is added up."""
    names = MetricNames(2)
    names.figures([requests("a", "x"), requests("b", "x")])
    figures = names.figures(
        [requests("c", "x", 3), requests("b", "x", 5), requests("d", "y", 4), requests("a", "x", 7)]
    )
    assert {x.name: x.values for x in figures} == {
        "upstream._other.method._other.requests": (7.0,),
        "upstream.b.method.x.requests": (5.0,),
        "upstream.a.method.x.requests": (7.0,),
    }
    # Of each metric so many: another one has names of its own.
    (other,) = names.figures([Row(metrics.TOOL_ERRORS, ("c", "x"), (1,))])
    assert other.name == "upstream.c.method.x.tool_errors"


def test_thousands_of_names_are_a_few() -> None:
    names = MetricNames(10)
    seen = {x.name for n in range(5000) for x in names.figures([requests(f"u{n}", "x")])}
    assert len(seen) == 11


def test_what_shares_a_name_is_added_up() -> None:
    figures = MetricNames(9).figures([requests("a.b", "x", 1), requests("a_b", "x", 2)])
    assert figures == [Figure("upstream.a_b.method.x.requests", Kind.COUNTER, (3.0,))]


def test_times_are_not_added_up() -> None:
    """Each keeps the share that it stands for."""
    rows = [
        Row(metrics.LATENCY, (upstream, "x"), (1.0, 2.0), rate)
        for upstream, rate in (("a b", 0.5), ("a/b", 1.0))
    ]
    name = "upstream.a_b.method.x.latency"
    assert MetricNames(9).figures(rows) == [
        Figure(name, Kind.TIMER, (1.0, 2.0), 0.5),
        Figure(name, Kind.TIMER, (1.0, 2.0), 1.0),
    ]


def test_metric_of_one_name_has_it() -> None:
    (figure,) = MetricNames(1).figures([Row(metrics.PROCESS_RSS, (), (5,))])
    assert figure == Figure("process.rss", Kind.GAUGE, (5.0,))

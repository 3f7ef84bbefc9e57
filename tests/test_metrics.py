"""The table of metrics and the document that is made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy_actors.metrics import METRICS, Kind, rendered

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_document_has_the_table() -> None:
    """If this fails: make docs."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert rendered(text) == text


def test_every_metric_says_everything() -> None:
    assert len(METRICS) > 40
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_]+(\.([a-z_]+|\{[a-z]+\}))+", metric.template), metric
        assert metric.unit and metric.meaning.endswith("."), metric
        assert metric.kind is not Kind.TIMER or metric.unit == "ms", metric


def test_no_name_is_another_or_the_path_to_another() -> None:
    """Graphite keeps a name in a file, and what is below it in a directory beside it."""
    templates = [x.template for x in METRICS]
    assert len(set(templates)) == len(templates)
    for one in templates:
        assert not any(other.startswith(f"{one}.") for other in templates)


def test_what_the_document_alerts_on_is_sent() -> None:
    """Every metric that is named in the prose is in the table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    prose = re.sub(r"<!-- metrics -->.*<!-- end -->", "", text, flags=re.S)
    known = {re.sub(r"\{\w+\}", "*", x.template) for x in METRICS}
    named = set(re.findall(r"`((?:upstream|actor|limits|process|sessions|hub)\.[a-z_.*]+)`", prose))
    assert named and named <= known


@pytest.mark.parametrize("text", ["", "<!-- metrics -->\n<!-- end -->\n" * 2])
def test_document_without_its_marks_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="tables of metrics"):
        rendered(text)

"""The published conformance suite, run against the everything server by each route.

PROTOCOL section 15: green is a floor, not a proof; what a proxy must do beyond passing bytes on
is tested by test_real_clients and by the project's own suites.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.conformance import run_conformance
from peers.endpoint import Endpoint


@pytest.mark.parametrize("upstream", ["everything", "resumable"])
def test_all_required_scenarios_of_2025_11_25_pass(
    endpoint: Endpoint, upstream: str, tmp_path: Path
) -> None:
    """MCP-S, MCP-G, MCP-Z: 30 of 30 required scenarios, none of them without a result."""
    results = run_conformance(endpoint(upstream), tmp_path)
    assert results.failures() == [], results.output
    assert len(results.passed()) == len(results.required) == 30

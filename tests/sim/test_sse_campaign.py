"""A server of HTTP+SSE behind the data plane, under seeds: what clients are told is true."""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import PARTS, assert_clean, assert_found, run_part
from tests.sim.sse_scenario import SSE


@pytest.mark.parametrize("part", PARTS)
def test_sessions_of_http_sse_keep_their_rules_under_every_seed(part: int) -> None:
    """MCP-L-2, X-4; FLT-U1, U4; PROTOCOL section 12.3: nothing is executed twice or kept."""
    run_part(SSE, part)


def test_every_rare_state_is_reached() -> None:
    assert_clean(SSE)


@pytest.mark.parametrize("mutant", SSE.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if the sessions were wrong."""
    assert_found(SSE, mutant)

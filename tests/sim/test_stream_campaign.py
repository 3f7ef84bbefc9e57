"""Event streams that break at either side, under seeds: each event once, or the client is told."""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import PARTS, assert_clean, assert_found, run_part
from tests.sim.stream_scenario import STREAMS


@pytest.mark.parametrize("part", PARTS)
def test_streams_keep_their_rules_under_every_seed(part: int) -> None:
    """MCP-H-11, S-14 to S-18, S-21; FLT-N4 to N6, C1, C2."""
    run_part(STREAMS, part)


def test_every_rare_state_is_reached() -> None:
    """Streams resumed at either side and at both, budgets spent, standalone streams truncated."""
    assert_clean(STREAMS)


@pytest.mark.parametrize("mutant", STREAMS.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if streams that break were not handled well."""
    assert_found(STREAMS, mutant)

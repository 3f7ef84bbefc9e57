"""The whole data plane under seeds: one outcome for every request, nothing left behind."""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import PARTS, assert_clean, assert_found, run_part
from tests.sim.plane_scenario import PLANE

KILLS_MIN = 1000


@pytest.mark.parametrize("part", PARTS)
def test_plane_keeps_its_rules_under_every_seed(part: int) -> None:
    """O1, O2, O5; P1, P15, P17, C1, N4, N5, N7, N8, N11."""
    run_part(PLANE, part)


def test_every_rare_state_is_reached_and_a_thousand_kills_leave_nothing() -> None:
    """After each run leases, greenlets and streams are what they were before it."""
    seen = assert_clean(PLANE).seen
    kills = seen["killed_exchange"] + seen["killed_actor"] + seen["killed_socket"]
    assert kills >= KILLS_MIN


@pytest.mark.parametrize("mutant", PLANE.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if the data plane were wrong."""
    assert_found(PLANE, mutant)

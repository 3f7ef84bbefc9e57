"""The pool under seeds: nothing that is lent is lost, and what the rules are worth."""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import PARTS, assert_clean, assert_found, run_part
from tests.sim.pool_scenario import POOL


@pytest.mark.parametrize("part", PARTS)
def test_pool_keeps_its_rules_under_every_seed(part: int) -> None:
    """Conservation after every step; at rest nothing is out; every ask ends by its deadline."""
    run_part(POOL, part)


def test_every_rare_state_is_reached() -> None:
    assert_clean(POOL)


@pytest.mark.parametrize("mutant", POOL.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if the pool were wrong."""
    assert_found(POOL, mutant)

"""The pool under seeds: nothing that is lent is lost, and what the rules are worth."""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import assert_clean, assert_found
from tests.sim.pool_scenario import POOL


def test_pool_keeps_its_rules_under_every_seed() -> None:
    """Conservation after every step; at rest nothing is out; every ask ends by its deadline."""
    assert_clean(POOL)


@pytest.mark.parametrize("mutant", POOL.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if the pool were wrong."""
    assert_found(POOL, mutant)

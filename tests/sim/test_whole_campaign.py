"""The proxy as a whole under seeds: whatever happens, it tells the truth, and everything heals.

RELIABILITY 6.1, O1 to O5; the rows marked S of its tables, in all their company.
"""

from __future__ import annotations

import pytest

from tests.defects import Defect
from tests.sim.campaign import PARTS, Scenario, assert_clean, assert_found, run_part
from tests.sim.whole_scenario import SEVERAL, WHOLE


@pytest.mark.parametrize("part", PARTS)
def test_whole_proxy_keeps_its_rules_under_every_seed(part: int) -> None:
    """FLT-U1 to U4, U7, U12; N1, N4 to N7, N12; C1, C11, C16; P1, P6, P9, P13, P15 to P17, P19."""
    run_part(WHOLE, part)


@pytest.mark.parametrize("part", PARTS)
def test_proxy_before_several_endpoints_keeps_its_rules_under_every_seed(part: int) -> None:
    """FLT-N16: the same where an upstream has several endpoints, which are checked."""
    run_part(SEVERAL, part)


@pytest.mark.parametrize("scenario", [WHOLE, SEVERAL], ids=lambda scenario: scenario.name)
def test_every_rare_state_is_reached(scenario: Scenario) -> None:
    assert_clean(scenario)


@pytest.mark.parametrize("mutant", WHOLE.mutants, ids=str)
def test_planted_defect_is_found(mutant: Defect) -> None:
    """What the campaign would say if the parts were not held together."""
    assert_found(WHOLE, mutant)

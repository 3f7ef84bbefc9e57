"""Stdio upstreams under seeds: a call has one end, an answer one client, a child one owner.

FLT-U1 to U4, U7, U8, U10 to U12, C11; THR-T4, T21; MCP-G-1, G-3, S-21, X-3, X-6, I-1, I-4, I-7.
"""

from __future__ import annotations

import pytest

from proxy_actors.messages import stdio_effects as e
from tests.defects import Defect
from tests.sim.campaign import Scenario, assert_clean, assert_found
from tests.sim.stdio_scenario import STDIO

MUTANTS = [
    pytest.param(scenario, mutant, id=f"{scenario.name}: {mutant}")
    for scenario in STDIO
    for mutant in scenario.mutants
]


@pytest.mark.parametrize("scenario", STDIO, ids=lambda scenario: scenario.name)
def test_stdio_keeps_its_rules_under_every_seed(scenario: Scenario) -> None:
    """Ownership after every step, isolation in every message, nothing left over at rest."""
    assert_clean(scenario)


def test_campaigns_reach_every_effect_behind_stdio() -> None:
    """In one mode or another: a campaign fails that misses what it has to reach."""
    unions = (e.LedgerEffect, e.ChildrenEffect, e.SharedSessionsEffect)
    effects = {effect.__name__ for union in unions for effect in union.__args__}
    # Its session has to end between the look-up and the message; the policy's search has that.
    effects.remove("RefuseSessionStream")
    assert effects <= frozenset().union(*(scenario.rare for scenario in STDIO))


@pytest.mark.parametrize(("scenario", "mutant"), MUTANTS)
def test_planted_defect_is_found(scenario: Scenario, mutant: Defect) -> None:
    """What a campaign would say if the proxy were wrong."""
    assert_found(scenario, mutant)

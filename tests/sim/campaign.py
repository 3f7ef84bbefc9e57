"""Runs a scenario under many seeds.

A scenario is a whole system in a simulated world: it runs under faults, then the faults heal, then
everything must come to rest. A seed decides a run to the last step, so a failure can be had again:
the message names the command. What a campaign never reached it has not tested: every scenario
names rare states, and a campaign that meets one of them never has failed as well.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy_actors.world.sim_world import SimWorld
from tests.sim.turns import watched_turns


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Attributes:
        name: how `python -m tests.sim.replay` finds it.
        run: builds the system in the world, runs it, and raises when a rule is broken. It notes
            rare states in `world.seen`.
        rare: the states that every campaign must have reached at least once.
    """

    name: str
    run: Callable[[SimWorld], None]
    rare: frozenset[str]


@dataclass
class Campaign:
    """What became of the seeds."""

    seeds: int = 0
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)


class SeedFailed(AssertionError):
    """A run broke a rule; says how to have it again."""

    def __init__(self, scenario: Scenario, seed: int, error: BaseException) -> None:
        super().__init__(
            f"{scenario.name} failed with seed {seed}: {error!r}\n"
            f"PYTHONHASHSEED=0 python -m tests.sim.replay {scenario.name} {seed}"
        )
        self.seed = seed


def run_seeds(scenario: Scenario, seeds: Iterable[int]) -> Campaign:
    """Run each seed; stop at the first that fails.

    Raises:
        SeedFailed: a run broke a rule.
    """
    campaign = Campaign()
    with watched_turns(), quiet_logs():
        for seed in seeds:
            world = SimWorld(seed)
            try:
                scenario.run(world)
                check_rest(world)
            except Exception as error:
                raise SeedFailed(scenario, seed, error) from error
            campaign.seeds += 1
            campaign.steps += world.steps
            campaign.seen += world.seen
    return campaign


def check_rest(world: SimWorld) -> None:
    """Check what must hold of every world at the end of its run."""
    assert not world.errors, world.errors
    assert not world.tasks(), f"greenlets that nobody ended: {dict(world.tasks())}"


def never_reached(scenario: Scenario, campaign: Campaign) -> list[str]:
    """List the rare states that no seed has reached."""
    return sorted(name for name in scenario.rare if not campaign.seen[name])


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep thousands of planted crashes out of the log, and out of the time that logging takes."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

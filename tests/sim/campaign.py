"""Runs a scenario under many seeds.

A scenario is a whole system in a simulated world: it runs under faults, then the faults heal, then
everything must come to rest. A seed decides a run to the last step, so a failure can be had again:
the message names the command. What a campaign never reached it has not tested: every scenario
names rare states, and a campaign that meets one of them never has failed as well. And what a
campaign cannot find it does not guard against: every scenario names defects that it must find.

`SIM_SEEDS=100000` runs so many seeds of each scenario, for a night; `make sim` says how.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from proxy_actors.world.sim_world import SimWorld
from tests.defects import Defect, planted
from tests.sim.replies import watched_replies
from tests.sim.turns import watched_turns

# A campaign is several tests, so that none comes near the bound on the time of a test.
PARTS = range(6)
# A run that goes in circles without letting time pass must end as well.
STEPS_MAX = 1_000_000


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Attributes:
        name: how `python -m tests.sim.replay` finds it.
        run: builds the system in the world, runs it, and raises when a rule is broken. It notes
            rare states in `world.seen`.
        rare: the states that every campaign must have reached at least once.
        seeds: how many seeds make a campaign of `make test`.
        mutants: the defects that such a campaign must find, each by itself.
        found: seeds beyond those that have found something once.
    """

    name: str
    run: Callable[[SimWorld], None]
    rare: frozenset[str]
    seeds: int = 100
    mutants: tuple[Defect, ...] = ()
    found: tuple[int, ...] = ()


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


@cache
def run_part(scenario: Scenario, part: int) -> Campaign:
    """Run a part of the scenario's campaign, once: no seed breaks a rule.

    Raises:
        SeedFailed: a run broke a rule.
    """
    seeds = int(os.environ.get("SIM_SEEDS", scenario.seeds))
    return run_seeds(scenario, [*scenario.found, *range(seeds)][part :: len(PARTS)])


def assert_clean(scenario: Scenario) -> Campaign:
    """Sum up the campaign: no rare state is missed. Parts that have not been run are run.

    Raises:
        SeedFailed: a run broke a rule.
    """
    campaign = Campaign()
    for part in PARTS:
        done = run_part(scenario, part)
        campaign.seeds += done.seeds
        campaign.steps += done.steps
        campaign.seen += done.seen
    print(f"{scenario.name}: {campaign.seeds} seeds, {campaign.steps} steps")
    for name, times in sorted(campaign.seen.items()):
        print(f"{times:9} {name}")
    missing = never_reached(scenario, campaign)
    assert not missing, f"{scenario.name} never reached {missing} in {campaign.seeds} seeds"
    return campaign


def assert_found(scenario: Scenario, mutant: Defect) -> None:
    """Run the campaign with the defect: some seed must break a rule."""
    with planted(mutant):
        try:
            run_seeds(scenario, [*scenario.found, *range(scenario.seeds)])
        except SeedFailed as failure:
            print(f"{mutant}: {failure}")
            return
    raise AssertionError(f"{scenario.seeds} seeds of {scenario.name} did not find: {mutant}")


def run_seeds(scenario: Scenario, seeds: Iterable[int]) -> Campaign:
    """Run each seed; stop at the first that fails.

    Raises:
        SeedFailed: a run broke a rule.
    """
    campaign = Campaign()
    with quiet_logs():
        for seed in seeds:
            world = SimWorld(seed)
            try:
                run_one(scenario, world)
            except Exception as error:
                raise SeedFailed(scenario, seed, error) from error
            campaign.seeds += 1
            campaign.steps += world.steps
            campaign.seen += world.seen
    return campaign


def run_one(scenario: Scenario, world: SimWorld) -> None:
    """Run the scenario in a fresh world, and check what must hold of every run."""

    def check_steps() -> None:
        assert world.steps < STEPS_MAX, "the run goes in circles"

    world.after_step.append(check_steps)
    with watched_turns(), watched_replies():
        scenario.run(world)
    check_rest(world)


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

"""What campaigns rest on: a seed is a run, a failure can be had again, nothing is passed over."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from proxy_actors.world.sim_world import SimWorld
from tests.defects import planted
from tests.sim.campaign import (
    Scenario,
    SeedFailed,
    assert_clean,
    assert_found,
    quiet_logs,
    run_one,
    run_part,
    run_seeds,
)
from tests.sim.pool_scenario import POOL
from tests.sim.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SEEDS_MIN = 2000


def replay(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command that a failure names."""
    return subprocess.run(
        [sys.executable, "-m", "tests.sim.replay", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed}, cwd=ROOT, text=True,
        capture_output=True, check=False, timeout=100.0,
    )  # fmt: skip


def test_campaigns_of_make_test_have_seeds_enough() -> None:
    assert sum(scenario.seeds for scenario in SCENARIOS.values()) >= SEEDS_MIN


@pytest.mark.parametrize("name", SCENARIOS)
def test_seed_decides_a_run_to_the_last_step(name: str) -> None:
    runs = []
    for _ in range(2):
        world = SimWorld(3)
        with quiet_logs():
            run_one(SCENARIOS[name], world)
        runs.append((world.steps, world.now_s(), world.seen, world.random()))
    assert runs[0] == runs[1]
    assert runs[0][0] > 100


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_left_of_a_run(name: str) -> None:
    """Else a long campaign needs ever more memory, and so would whatever starts a tree anew."""
    left = []
    with quiet_logs():
        for seed in range(5):
            world = SimWorld(seed)
            run_one(SCENARIOS[name], world)
            left.append(weakref.ref(world))
            del world
    while gc.collect():
        pass  # what a finalizer has held back goes with the next
    assert [world() for world in left] == [None] * 5


@pytest.mark.parametrize("name", SCENARIOS)
def test_replay_tells_the_same_run_in_another_process(name: str) -> None:
    first, second = replay(name, "3"), replay(name, "3")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 20
    assert first.stdout.splitlines()[-1].startswith("seed 3 keeps every rule")


def test_failing_seed_is_printed_with_the_command_that_replays_it() -> None:
    mutant = POOL.mutants[0]
    with planted(mutant), pytest.raises(SeedFailed) as failure:
        run_seeds(POOL, range(POOL.seeds))
    told, command = str(failure.value).splitlines()
    assert command == f"PYTHONHASHSEED=0 python -m tests.sim.replay pool {failure.value.seed}"
    again = replay(*command.split()[4:], "--mutant", mutant.name)
    assert again.returncode == 1
    assert repr(failure.value.__cause__) in told
    assert again.stderr.splitlines()[-1] == f"AssertionError: {failure.value.__cause__}"


def test_replay_insists_on_the_order_of_sets() -> None:
    refused = replay("pool", "3", hash_seed="1")
    assert refused.returncode == 2
    assert "PYTHONHASHSEED=0" in refused.stderr


def test_campaign_that_misses_a_rare_state_fails() -> None:
    scenario = replace(POOL, seeds=2, rare=POOL.rare | {"the end of the world"})
    with pytest.raises(AssertionError, match="never reached .*the end of the world"):
        assert_clean(scenario)


def test_campaign_that_does_not_find_a_defect_fails() -> None:
    harmless = replace(POOL.mutants[0], name="no defect at all", new=POOL.mutants[0].old)
    with pytest.raises(AssertionError, match="3 seeds of pool did not find: no defect at all"):
        assert_found(replace(POOL, seeds=3), harmless)


def test_seeds_that_found_something_once_are_run_first() -> None:
    run: list[float] = []
    scenario = Scenario("s", lambda world: run.append(world.random()), frozenset(), 1, found=(7,))
    assert assert_clean(scenario).seeds == 2
    assert run == [SimWorld(7).random(), SimWorld(0).random()]


def test_every_seed_is_in_one_part() -> None:
    run: list[float] = []
    scenario = Scenario("s", lambda world: run.append(world.random()), frozenset(), 20)
    first = run_part(scenario, 0)
    assert assert_clean(scenario).seeds == 20
    assert sorted(run) == sorted(SimWorld(seed).random() for seed in range(20))
    assert 1 < first.seeds < 20


def test_greenlet_that_nobody_ends_is_a_failure() -> None:
    def run(world: SimWorld) -> None:
        world.spawn("forgotten", lambda: world.pass_time(1e9))
        world.run(1.0)

    with pytest.raises(SeedFailed, match="greenlets that nobody ended: {'forgotten': 1}"):
        run_seeds(Scenario("s", run, frozenset()), [0])


def test_run_that_goes_in_circles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.campaign.STEPS_MAX", 100)

    def run(world: SimWorld) -> None:
        def again() -> None:
            world.soon(again)

        again()
        world.run(1.0)

    with pytest.raises(SeedFailed, match="circles"):
        run_seeds(Scenario("s", run, frozenset()), [0])

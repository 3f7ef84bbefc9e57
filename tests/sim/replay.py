"""Replays one seed and tells every turn: PYTHONHASHSEED=0 python -m tests.sim.replay pool 1234

With `--mutant NAME` the run has that defect of the scenario's.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import greenlet

from proxy_actors.actors.base import Actor
from proxy_actors.actors.inbox import Mail
from proxy_actors.world.sim_world import SimWorld
from tests.defects import planted
from tests.sim.campaign import run_one
from tests.sim.scenarios import SCENARIOS

# Objects that only say where they are: nowhere else in another process.
_ADDRESS = re.compile(r"(?<=object) at 0x[0-9a-f]+")


def main(arguments: list[str]) -> int:
    """Replay; raise when a rule is broken, as it was before."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replay", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--mutant")
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        parser.error("set PYTHONHASHSEED=0: a run is the same only with the same order of sets")
    scenario = SCENARIOS[options.scenario]
    mutants = {mutant.name: planted(mutant) for mutant in scenario.mutants}
    if options.mutant not in {None, *mutants}:
        parser.error(f"the mutants of {scenario.name} are {', '.join(mutants)}")
    world = SimWorld(options.seed)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    with mutants.get(options.mutant, nullcontext()), told_turns(world):
        run_one(scenario, world)
    print(f"seed {options.seed} keeps every rule: {world.steps} steps, {dict(world.seen)}")
    return 0


@contextmanager
def told_turns(world: SimWorld) -> Iterator[None]:
    """Print each turn with its virtual time while the context lasts."""
    turn: Any = Actor._turn

    def told(actor: Actor, mail: Mail) -> None:
        owners = [task.owner for task in world.live if task.greenlet is greenlet.getcurrent()]
        own = owners == [f"actor {type(actor).__name__}"]
        where = "" if own else f"inline in {owners}"
        print(f"{world.steps:6} {world.now_s():9.3f} {actor.name}#{actor.slot.starts} "
              f"{_ADDRESS.sub('', str(mail.message))} {where}".rstrip())
        turn(actor, mail)

    setattr(Actor, "_turn", told)
    try:
        yield
    finally:
        setattr(Actor, "_turn", turn)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

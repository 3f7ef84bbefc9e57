"""Replays one seed and tells every turn: PYTHONHASHSEED=0 python -m tests.sim.replay pool 1234"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from proxy_actors.actors.base import Actor
from proxy_actors.actors.inbox import Mail
from proxy_actors.world.sim_world import SimWorld
from tests.sim.campaign import check_rest
from tests.sim.scenarios import SCENARIOS
from tests.sim.turns import watched_turns


def main(arguments: list[str]) -> int:
    """Replay; return 1 when a rule is broken, as it was before."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replay", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("seed", type=int)
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        parser.error("set PYTHONHASHSEED=0: a run is the same only with the same order of sets")
    world = SimWorld(options.seed)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    tell_turns(world)
    with watched_turns():
        SCENARIOS[options.scenario].run(world)
        check_rest(world)
    print(f"seed {options.seed} keeps every rule: {world.steps} steps, {dict(world.seen)}")
    return 0


def tell_turns(world: SimWorld) -> None:
    """Print each turn with its virtual time."""
    turn: Any = Actor._turn

    def told(actor: Actor, mail: Mail) -> None:
        where = "inline" if actor._parked is None and not actor.actor_inbox else ""
        print(f"{world.steps:6} {world.now_s():9.3f} {actor.name}#{actor.slot.starts} "
              f"{mail.message} {where}".rstrip())
        turn(actor, mail)

    setattr(Actor, "_turn", told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

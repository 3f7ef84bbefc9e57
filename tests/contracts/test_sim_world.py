"""The contracts of the world's ports, run on the simulated world with several seeds."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from proxy_actors.errors import ConnectError, ConnectFault, DeadlineError
from proxy_actors.world.base import TlsClient
from proxy_actors.world.sim_streams import SimProcess
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.contracts.suites import CONTRACTS, Contract

SEEDS = range(3)


def cat(process: SimProcess) -> int:
    while data := process.input.read(65536, math.inf):
        process.output.write((data,), math.inf)
    return 0


def stay(process: SimProcess) -> int:
    try:
        process.world.waiter().wait(process.world.now_s() + 60.0)
    except DeadlineError:
        pass
    return 0


def sh(process: SimProcess) -> int:
    process.output.write((b"out\n",), math.inf)
    process.errors.write((b"err\n",), math.inf)
    return 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())
def test_simulated_world_keeps(contract: Contract, seed: int) -> None:
    """What the simulator shows must be able to happen in the real world, and the reverse."""
    world = SimWorld(seed, Faults(fragment=0.0))
    world.programs.update({"cat": cat, "sleep": stay, "sh": sh})
    ended: list[BaseException | None] = []
    world.spawn("contract", lambda: contract(world), ended.append)
    assert world.run_until(lambda: bool(ended)), "the contract did not come to its end"
    if ended[0] is not None:
        raise ended[0]
    world.run(120.0)
    assert dict(world.tasks()) == {}
    assert world.listeners == {}


def test_handshakes_are_refused_by_chance_as_connects_are() -> None:
    """TLS is virtual there, and what can come of it is not."""
    seen: Counter[str] = Counter()
    for seed in range(50):
        world = SimWorld(seed, Faults(refuse=0.5))
        seen[connect_in_tls(world)] += 1
    assert set(seen) == {"connected", ConnectFault.REFUSED, ConnectFault.TLS}


def connect_in_tls(world: SimWorld) -> str:
    outcome = []

    def connect() -> None:
        listener = world.listen("127.0.0.1", 0, lambda stream: stream.close())
        try:
            world.connect(*listener.address, math.inf, TlsClient()).close()
            outcome.append("connected")
        except ConnectError as error:
            outcome.append(error.fault)

    world.spawn("contract", connect)
    world.run(10.0)
    return outcome[0]


def test_there_are_contracts_for_every_port() -> None:
    """Else everything above would pass."""
    suites = {name.partition("-")[0] for name in CONTRACTS}
    assert suites >= {
        "suite_child", "suite_network", "suite_spawn", "suite_stream", "suite_time", "suite_waiter"
    }

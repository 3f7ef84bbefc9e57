"""The contracts of `SessionStore`: on the simulated store, in memory, and on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from proxy_actors.storage.memory import MemoryStore
from proxy_actors.storage.open import open_store
from proxy_actors.transports.store_thread import StoreThread
from proxy_actors.world.base import World
from proxy_actors.world.stores import SessionStore
from proxy_actors.world.gevent_world import GeventWorld
from proxy_actors.world.sim_store import SimDisk, SimStore
from proxy_actors.world.sim_world import Faults, SimWorld
from tests.contracts import suite_store
from tests.contracts.suite_store import Disk

SEEDS = range(5)
# Only ever waited out when a contract is broken.
PATIENCE_S = 60.0

Contract = Callable[[World, Disk], None]

CONTRACTS: dict[str, Contract] = {
    name.removeprefix("contract_"): contract
    for name, contract in vars(suite_store).items()
    if name.startswith("contract_")
}
every_contract = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())


class Simulated:
    """The simulated disk."""

    lasts = True

    def __init__(self, world: SimWorld, disk: SimDisk | None = None) -> None:
        self._world = world
        self._disk = disk or SimDisk()

    def open(self) -> SessionStore:
        return SimStore(self._world, self._disk)

    def copy(self) -> Disk:
        left = SimDisk()
        left.rows = dict(self._disk.rows)
        return Simulated(self._world, left)


class Memory:
    """No disk at all."""

    lasts = False

    def open(self) -> SessionStore:
        return MemoryStore()

    def copy(self) -> Disk:
        return Memory()


class Directory:
    """A state directory; its copies lie in others, so no two lives share a file."""

    lasts = True

    def __init__(self, parent: Path, numbers: Iterator[int], path: Path | None = None) -> None:
        self._parent = parent
        self._numbers = numbers
        self._path = path or parent / "state"

    def open(self) -> SessionStore:
        return open_store(str(self._path), StoreThread)

    def copy(self) -> Disk:
        path = self._parent / f"copy-{next(self._numbers)}"
        shutil.copytree(self._path, path)
        return Directory(self._parent, self._numbers, path)


@pytest.mark.parametrize("seed", SEEDS)
@every_contract
def test_simulated_store_keeps(contract: Contract, seed: int) -> None:
    """Crashes that the simulator shows must be those of the real store."""
    world = SimWorld(seed, Faults())
    run_simulated(world, contract, Simulated(world))


@every_contract
def test_store_in_memory_keeps(contract: Contract) -> None:
    run_simulated(SimWorld(1, Faults()), contract, Memory())


@every_contract
def test_sqlite_store_keeps(contract: Contract, tmp_path: Path) -> None:
    """The file, and the thread that writes it."""
    world = GeventWorld(None)
    ended = world.waiter()
    disk = Directory(tmp_path, count(1))
    world.spawn("contract", lambda: contract(world, disk), ended.set)
    error = ended.wait(world.now_s() + PATIENCE_S)
    if error is not None:
        raise error


def run_simulated(world: SimWorld, contract: Contract, disk: Disk) -> None:
    ended: list[BaseException | None] = []
    world.spawn("contract", lambda: contract(world, disk), ended.append)
    assert world.run_until(lambda: bool(ended)), "the contract did not come to its end"
    if ended[0] is not None:
        raise ended[0]

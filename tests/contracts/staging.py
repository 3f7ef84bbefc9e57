"""What the contract suites share: passing time, a mailbox, and a connection with both its ends.

A contract is a function `contract_x(world)` of a module `suite_*.py`. It is run in a greenlet of
the world under test, uses nothing but that world, asserts, and leaves nothing open behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy_actors.errors import DeadlineError
from proxy_actors.world.base import ByteStream, Waiter, World

# Longer than a deadline's grain; what is ready to run has run by then.
SHORT_S = 0.06
# Only ever waited out when a contract is broken.
LONG_S = 5.0


def pass_time(world: World, seconds: float = SHORT_S) -> None:
    """Let others run for that long."""
    try:
        world.waiter().wait(world.now_s() + seconds)
    except DeadlineError:
        pass


def soon(world: World) -> float:
    """A deadline that is reached only if the world is broken."""
    return world.now_s() + LONG_S


class Box:
    """A mailbox that keeps its mail; `wait_for` parks until there is enough of it."""

    def __init__(self, world: World) -> None:
        self.mail: list[Any] = []
        self._world = world
        self._wanted = 0
        self._waiter: Waiter = world.waiter()

    def tell(self, message: Any) -> bool:
        self.mail.append(message)
        if self._wanted and len(self.mail) >= self._wanted:
            self._waiter.set()
        return True

    def wait_for(self, count: int) -> list[Any]:
        if len(self.mail) < count:
            self._wanted = count
            self._waiter = self._world.waiter()
            self._waiter.wait(soon(self._world))
        return self.mail


@contextmanager
def connected(
    world: World, host: str = "127.0.0.1"
) -> Iterator[tuple[ByteStream, ByteStream]]:
    """Both ends of one connection: who connected, and who accepted."""
    accepted = world.waiter()
    listener = world.listen(host, 0, accepted.set)
    near = world.connect(*listener.address, soon(world))
    far: ByteStream = accepted.wait(soon(world))
    listener.close()
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def read_exactly(world: World, stream: ByteStream, count: int) -> bytes:
    """The next `count` bytes, or fewer if the input ends first."""
    received = bytearray()
    while len(received) < count:
        data = stream.read(min(65536, count - len(received)), soon(world))
        if not data:
            break
        received += data
    return bytes(received)

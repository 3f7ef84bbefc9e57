"""The faults of a network between two parties, as toxics that can be put in and taken out.

A toxic acts on what comes after it was put in, on connections that are open too.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from chaos.relay import CLOSE, RESET, STALL, Fate, Relay, Step

REQUEST, ANSWER = "request", "answer"
BOTH = (REQUEST, ANSWER)


@dataclass(frozen=True)
class Toxic:
    """One fault. `sides` are the directions that it acts on."""

    sides: tuple[str, ...] = BOTH

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Say what becomes of some bytes, when so many of this direction have come before."""
        raise NotImplementedError


@dataclass(frozen=True)
class Latency(Toxic):
    """All bytes come later: by `seconds`, give or take `jitter_s`."""

    seconds: float = 0.1
    jitter_s: float = 0.0

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Wait, then hand on."""
        yield max(0.0, self.seconds + chance.uniform(-self.jitter_s, self.jitter_s))
        yield data


@dataclass(frozen=True)
class Slicer(Toxic):
    """Bytes come in small pieces with a wait before each: slow loris, or a thin line."""

    size: int = 1
    pause_s: float = 0.01

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Cut into pieces."""
        for at in range(0, len(data), self.size):
            yield self.pause_s
            yield data[at : at + self.size]


@dataclass(frozen=True)
class Cut(Toxic):
    """The connection ends in some way after so many bytes of this direction."""

    after_bytes: int = 0
    way: str = RESET

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Hand on what is left, then end."""
        left = max(0, self.after_bytes - passed)
        if left:
            yield data[:left]
        if left <= len(data):
            if left and self.way == RESET:
                yield 0.05  # a reset takes with it what its receiver has not read yet
            yield self.way


@dataclass(frozen=True)
class BlackHole(Toxic):
    """Nothing arrives any more, and nobody is told."""

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Carry nothing further."""
        yield STALL


@dataclass(frozen=True)
class Garbage(Toxic):
    """Bytes arrive, but others."""

    def act(self, data: bytes, passed: int, chance: random.Random) -> Iterable[Step]:
        """Replace all."""
        yield chance.randbytes(len(data))


class _Poisoned(Fate):
    """What the toxics of a proxy do to one connection."""

    def __init__(self, proxy: FaultProxy, chance: random.Random) -> None:
        self._proxy = proxy
        self._chance = chance
        self._passed = dict.fromkeys(BOTH, 0)

    def request(self, data: bytes) -> Iterable[Step]:
        """From the client."""
        return self._through(REQUEST, data)

    def answer(self, data: bytes) -> Iterable[Step]:
        """From the server."""
        return self._through(ANSWER, data)

    def _through(self, side: str, data: bytes) -> Iterable[Step]:
        steps: Iterable[Step] = (data,)
        passed = self._passed[side]
        self._passed[side] += len(data)
        for toxic in self._proxy.toxics:
            if side in toxic.sides:
                steps = self._after(toxic, steps, passed)
        return steps

    def _after(self, toxic: Toxic, steps: Iterable[Step], passed: int) -> Iterable[Step]:
        for step in steps:
            if isinstance(step, bytes):
                yield from toxic.act(step, passed, self._chance)
                passed += len(step)
            else:
                yield step


class FaultProxy(Relay):
    """Stands between two parties and lets everything pass until it is given toxics.

    Attributes:
        toxics: those in force, in the order in which bytes meet them.
    """

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        super().__init__(target, seed, lambda chance: _Poisoned(self, chance))
        self.toxics: tuple[Toxic, ...] = ()

    def poison(self, *toxics: Toxic) -> None:
        """Put these in the place of the others."""
        self.toxics = toxics

    def heal(self) -> None:
        """Take all of them out; what stalls ends."""
        self.toxics = ()
        self.cut(CLOSE)

    def restore(self) -> None:
        """Heal, and listen, whatever was done to it."""
        self.heal()
        self.accept()


class SynHole:
    """Holds an address where connections are neither accepted nor refused. A context manager.

    The queue of a listener that nobody serves is full: the kernel drops what else comes.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._held: list[socket.socket] = []

    def __enter__(self) -> SynHole:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(self._address)
        listening.listen(0)
        self._held = [listening]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._address)
            self._held.append(filler)
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._held:
            held.close()

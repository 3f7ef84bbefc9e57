"""The depth of brackets: right for every shape, and found in a few readings whatever the shape."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

import pytest

from proxy_actors.protocol.json_depth import _LEAF_EVERY, is_deeper, nests_deeper

UNITS = 20_000


def depth_of(brackets: bytes) -> int:
    """Count bracket by bracket."""
    return max(accumulate(1 if mark == ord("[") else -1 for mark in brackets), default=0)


def tree(chance: random.Random, size: int, bushy: float) -> bytes:
    """Balanced brackets that turn around now and then."""
    text, depth = b"", 0
    while len(text) < size:
        up = not depth or chance.random() < bushy
        run = 1 + int(chance.expovariate(bushy * 2))
        run = run if up else min(run, depth)
        text += (b"[" if up else b"]") * run
        depth += run if up else -run
    return text + b"]" * depth


SHAPES = {
    "nothing": b"",
    "flat": b"[" + b"[]" * UNITS + b"]",
    "one tower": b"[" * UNITS + b"]" * UNITS,
    "a comb": b"[[]" * UNITS + b"]" * UNITS,
    "a comb from behind": b"[" * UNITS + b"[]]" * UNITS,
    **{f"towers of {k}": (b"[" * k + b"]" * k) * (UNITS // k)
       for k in (2, 3, 7, 11, _LEAF_EVERY // 2, _LEAF_EVERY, 60, 500)},
    **{f"tree {seed}": tree(random.Random(seed), UNITS, 0.2 + seed * 0.02) for seed in range(15)},
}  # fmt: skip


class Metered(bytes):
    """Tells how many bytes have been searched in it, and how many pieces made of it."""

    searched = 0
    pieces = 0

    def count(self, *args: Any) -> int:
        Metered.searched += len(self)
        return super().count(*args)

    def replace(self, *args: Any) -> Metered:
        Metered.searched += len(self)
        return Metered(super().replace(*args))

    def split(self, *args: Any) -> list[bytes]:
        Metered.searched += len(self)
        parts = super().split(*args)
        Metered.pieces += len(parts)
        return parts


@pytest.mark.parametrize("shape", SHAPES)
def test_bound_is_exact_for_every_shape(shape: str) -> None:
    brackets = SHAPES[shape]
    depth = depth_of(brackets)
    for depth_max in {0, 1, depth - 2, depth - 1, depth, depth + 1, 10**6} - {-2, -1}:
        assert nests_deeper(brackets, depth_max) is (depth > depth_max), depth_max


@pytest.mark.parametrize("seed", range(300))
def test_bound_is_exact_for_small_trees(seed: int) -> None:
    chance = random.Random(seed)
    brackets = tree(chance, chance.randrange(40), chance.random() * 0.9 + 0.05)
    for depth_max in range(depth_of(brackets) + 2):
        assert nests_deeper(brackets, depth_max) is (depth_of(brackets) > depth_max), brackets


@pytest.mark.parametrize("depth_max", [64, 10**6])
@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_a_few_readings_and_few_steps(
    shape: str, depth_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THR-T17: millions of brackets in a body must not hold the loop."""
    monkeypatch.setattr(Metered, "searched", 0)
    monkeypatch.setattr(Metered, "pieces", 0)
    nests_deeper(Metered(SHAPES[shape]), depth_max)
    assert Metered.searched <= 2 * (_LEAF_EVERY + 1) * len(SHAPES[shape])
    assert Metered.pieces <= len(SHAPES[shape]) // _LEAF_EVERY + 1


def test_brackets_of_either_kind_count_and_those_in_strings_do_not() -> None:
    document = rb'{"a[":[{"\"[[":"\\"},"[[[",[{}]]}'
    assert is_deeper(document, 3) and not is_deeper(document, 4)

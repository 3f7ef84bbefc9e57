"""Counting the work of a decoder, so that a test can say that it is linear without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest


class Meter:
    """How many bytes have been copied into, out of, or searched in, what a decoder keeps."""

    def __init__(self) -> None:
        self.bytes_moved = 0


@contextmanager
def metered(module: ModuleType) -> Iterator[Meter]:
    """Have a module keep its bytes in a bytearray that tells what is done with it."""
    meter = Meter()

    class Metered(bytearray):
        def __iadd__(self, other: Any) -> Any:
            meter.bytes_moved += len(other)
            return super().__iadd__(other)

        def __add__(self, other: Any) -> Any:
            meter.bytes_moved += len(self) + len(other)
            return Metered(super().__add__(other))

        def __bytes__(self) -> bytes:
            meter.bytes_moved += len(self)
            return bytes(memoryview(self))

        def find(self, *args: Any) -> int:
            meter.bytes_moved += len(self)
            return super().find(*args)

        def splitlines(self, *args: Any) -> Any:
            meter.bytes_moved += len(self)
            return super().splitlines(*args)

        def split(self, *args: Any) -> Any:
            meter.bytes_moved += len(self)
            return super().split(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "bytearray", Metered, raising=False)
        yield meter

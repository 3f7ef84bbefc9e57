"""Other bounds and methods for the length of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def other_bounds(*bounds: tuple[Any, str, Any]) -> Iterator[None]:
    """Have these attributes of classes or modules other values while the context lasts."""
    with ExitStack() as stack:
        for owner, name, bound in bounds:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, bound)
        yield

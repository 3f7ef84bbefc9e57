"""Defects on purpose: a few words of one function are replaced for the time of a test.

A search that finds nothing proves little until it has found what was planted.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Defect:
    """`old` stands once in the source of `function` of `owner`; `new` is put in its place."""

    name: str
    owner: type | ModuleType
    function: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.name


@contextmanager
def planted(defect: Defect) -> Iterator[None]:
    """Run with the defect; the function is as it was afterwards."""
    original = vars(defect.owner)[defect.function]
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(defect.old) == 1, f"{defect.name} has no place any more: mend its text"
    changed = source.replace(defect.old, defect.new)
    scope: dict[str, Any] = {}
    code = compile(
        f"from __future__ import annotations\n{changed}", f"<defect: {defect.name}>", "exec"
    )
    exec(code, vars(sys.modules[original.__module__]), scope)
    setattr(defect.owner, defect.function, scope[defect.function])
    try:
        yield
    finally:
        setattr(defect.owner, defect.function, original)

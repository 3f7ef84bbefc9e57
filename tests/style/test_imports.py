"""Who may import what: time, chance and I/O enter through the world alone.

The direction of imports between the package's own rooms is import-linter's to check (setup.cfg).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proxy_actors"
MODULES = sorted(PACKAGE.rglob("*.py"))

TIME_CHANCE_AND_IO = {
    "_socket", "_thread", "asyncio", "concurrent", "gevent", "multiprocessing", "random",
    "secrets", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time",
}
FORBIDDEN_OF_OS = {"fork", "popen", "system", "urandom"}
# The demo is a program of its own: to the proxy it is somebody else's server.
WORLDLY = ("transports", "world/gevent_world.py", "service.py", "demo.py")
# The simulator's chance is a generator with a seed.
ALLOWED_BESIDES = {
    "world/sim_world.py": {"random"},
    "control/key.py": {"secrets"},  # runs outside of the proxy
}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def is_worldly(path: Path) -> bool:
    return any(place(path) == name or place(path).startswith(f"{name}/") for name in WORLDLY)


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_modules_to_look_at() -> None:
    """Else everything below would pass."""
    assert PACKAGE / "errors.py" in MODULES


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_time_chance_and_io_are_imported_by_the_world_alone(path: Path) -> None:
    """What gets the world handed to it runs in the simulator as well."""
    if not is_worldly(path):
        forbidden = TIME_CHANCE_AND_IO - ALLOWED_BESIDES.get(place(path), set())
        assert {name.partition(".")[0] for name in imports(path)} & forbidden == set()


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_os_is_not_a_way_around_the_world(path: Path) -> None:
    """Randomness and processes come from the world as well."""
    if not is_worldly(path):
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        }
        assert used & FORBIDDEN_OF_OS == set()


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_relative_imports_are_not_used(path: Path) -> None:
    """One name for each module, which can be searched for."""
    nodes = ast.walk(ast.parse(path.read_text()))
    assert not [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_ports_are_declared_in_two_modules(path: Path) -> None:
    """What the world offers can be read in one place, and what outlives the process in another."""
    if place(path) not in {"world/base.py", "world/stores.py"}:
        assert "typing.Protocol" not in set(imports(path))


def test_the_demo_is_a_program_of_its_own() -> None:
    """It needs the standard library alone, and nothing needs it."""
    names = {name.partition(".")[0] for name in imports(PACKAGE / "demo.py")}
    assert names <= sys.stdlib_module_names
    importers = [place(p) for p in MODULES if "proxy_actors.demo" in set(imports(p))]
    assert importers == []

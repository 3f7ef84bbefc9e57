"""The shape of modules, functions and names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proxy_actors"
MODULES = sorted(PACKAGE.rglob("*.py"))
MESSAGES = sorted((PACKAGE / "messages").glob("*.py"))

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
VAGUE = {"common", "helper", "helpers", "manager", "util", "utils"}
VAGUE_IN_MESSAGES = {"data", "handle", "info", "manager", "update"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def definitions(path: Path) -> list[Definition]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, Definition)]


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield public classes, functions and methods with their names; what is inside functions not.

    Special methods are left out: the language says what they do.
    """
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def words(name: str) -> set[str]:
    """Split snake_case and CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_modules_and_functions_are_of_a_size_to_be_read(path: Path) -> None:
    """A module is one subject, a function one thought."""
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX
    long = [
        node.name
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_what_is_public_says_what_it_is_for(path: Path) -> None:
    """Modules, classes, functions and methods without an underscore have a docstring."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_names_say_something(path: Path) -> None:
    """What is called after nothing in particular collects everything."""
    names = [path.stem, *(node.name for node in definitions(path))]
    assert [name for name in names if words(name) & VAGUE] == []


@pytest.mark.parametrize("path", MESSAGES, ids=place)
def test_messages_are_named_after_what_is_asked_or_happened(path: Path) -> None:
    """Commands are imperative, events noun and participle; these words are neither."""
    names = [node.name for node in definitions(path) if isinstance(node, ast.ClassDef)]
    assert [name for name in names if words(name) & VAGUE_IN_MESSAGES] == []


def test_the_splitter_of_names_splits() -> None:
    """Else the two tests above would pass."""
    assert words("_byte_utils") == {"byte", "utils"}
    assert words("PoolManager") == {"pool", "manager"}
    assert words("HTTPInfo") == {"http", "info"}
    assert words("informed_updates") == {"informed", "updates"}

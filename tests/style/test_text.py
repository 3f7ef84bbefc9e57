"""What stands in the project's files, whatever their kind."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import proxy_actors
from proxy_actors.__main__ import main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
README_LINES_MAX = 150
WORDS_BEFORE_FIRST_COMMAND_MAX = 150

NOT_OURS = {"build", "dist", "node_modules"}
SUFFIXES = {".cfg", ".ini", ".md", ".mjs", ".py", ".service", ".sh", ".toml", ""}

# Where one person keeps things, and what one has left undone, helps nobody else.
PRIVATE_PLACE = re.compile(r"(?<![\w.$})/:-])/(?:home|mnt|root|tmp|Users|work)/\w")
UNFINISHED = re.compile(r"\b(?:FIX[M]E|TO[D]O|XX[X])\b")
# Waiting for a time to pass makes a test slow, or wrong on a slow day; 0 only lets others run.
TIMED_WAIT = re.compile(r"\bsleep\s*\((?!0\))")


def files(directory: Path = ROOT) -> Iterator[Path]:
    """Yield the text files of the project, leaving out what tools have made."""
    for path in sorted(directory.iterdir()):
        hidden = path.name.startswith(".") and path.name != ".ci"
        if hidden or path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from files(path)
        elif path.suffix in SUFFIXES:
            yield path


def found(pattern: re.Pattern[str], paths: Iterator[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("pattern", [PRIVATE_PLACE, UNFINISHED], ids=["place", "unfinished"])
def test_the_project_speaks_of_itself_alone(pattern: re.Pattern[str]) -> None:
    """It reads the same for everybody."""
    assert found(pattern, files()) == []


def test_tests_do_not_wait_for_time_to_pass() -> None:
    """Not in a script that they hand to another process, either; a server for tests may be slow."""
    modules = (p for p in files(ROOT / "tests") if p.name.startswith(("test_", "conftest")))
    assert found(TIMED_WAIT, modules) == []


def test_the_readme_comes_to_the_point() -> None:
    """A newcomer sees a command before the second screen."""
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES_MAX
    before = text.partition("make run")[0]
    prose = re.sub(r"```.*?```", "", before, flags=re.DOTALL)
    assert len(prose.split()) <= WORDS_BEFORE_FIRST_COMMAND_MAX


@pytest.mark.parametrize(
    "path", [p for p in files() if p.suffix == ".md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(path: Path) -> None:
    """Links to files of the project."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_commands_of_the_readme_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `proxy-actors run` in it, up to the service."""
    ran = []
    service = SimpleNamespace(run=lambda options: ran.append(options) or 0)
    monkeypatch.setitem(sys.modules, "proxy_actors.service", service)
    monkeypatch.setattr(proxy_actors, "service", service, raising=False)
    monkeypatch.setenv("API_TOKEN", "x")
    commands = re.findall(r"^proxy-actors (run .*)$", README.read_text(), re.MULTILINE)
    assert commands
    assert [main(shlex.split(command)) for command in commands] == [0] * len(commands)
    assert len(ran) == len(commands)

"""Everything that can be set is documented, with unit, default and limits."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from proxy_actors.__main__ import main
from proxy_actors.config import load
from proxy_actors.config.model import Config
from proxy_actors.config.section import SECRET, Section
from proxy_actors.config.upstreams import Upstream
from proxy_actors.config.reference import Setting, rendered, sections, settings

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / "deploy" / "proxy_actors.toml"
SETTINGS = [(header, x) for header, section in sections() for x in settings(section)]


def names(item: tuple[str, Setting]) -> str:
    return f"{item[0]}.{item[1].name}"


def test_document_has_the_tables_of_the_model() -> None:
    """If this fails: make docs."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert rendered(text) == text


@pytest.mark.parametrize("item", SETTINGS, ids=names)
def test_setting_says_everything(item: tuple[str, Setting]) -> None:
    """What it is for; a number its unit and both its limits; all but what must be there a default.

    Text has no unit: it is what its meaning says.
    """
    _, setting = item
    assert setting.meaning.endswith(".")
    assert setting.default
    if setting.kind == "number" and setting.name != "version":
        assert setting.unit
        assert " to " in setting.limits and setting.limits.startswith(("from ", "more than "))


def test_every_table_and_setting_is_found() -> None:
    """Else the tests above would pass."""
    assert {header for header, _ in sections()} >= {
        "top", "tls", "upstreams.NAME", "upstreams.NAME.pool", "upstreams.NAME.tls", "keys",
        "rate-limits.rules.tiers.NAME",
    }  # fmt: skip
    listed = {section for _, section in sections()}
    assert listed == set(Section.__subclasses__())
    assert len(SETTINGS) > 60
    shown = dict((names(item), item[1]) for item in SETTINGS)
    assert shown["http.body-rate-min"].unit == "bytes/s"
    assert shown["http.idle-s-max"].default == "`75`"
    assert shown["upstreams.NAME.pool.idle-min"].limits == "from 0 to 10_000"


def test_mark_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        rendered("<!-- table nowhere -->\n<!-- end -->\n")


def test_repr_shows_no_secret() -> None:
    """Of no table, and of none above it."""
    assert "canary" not in repr(Config(upstreams={"a": secret_upstream()}))
    assert "canary" in secret_upstream().env.values()
    assert {"env", "headers", "command", "url", "sha256"} <= SECRET


def secret_upstream() -> Upstream:
    return Upstream(
        command=("canary",), env={"A": "canary"}, headers={"A": "canary"}, url="canary"
    )


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """List the settings of a file, each without the names and numbers in its path."""
    found = set()
    for key, value in table.items():
        here = (*path, key)
        rows = value if isinstance(value, list) else [value]
        tables = [row for row in rows if isinstance(row, dict)]
        found.add(here)
        for row in tables:
            found |= leaves(row, here)
    return found


def test_example_names_every_setting() -> None:
    """Those that are commented out too: uncommented, the file is TOML still."""
    text = EXAMPLE.read_text(encoding="utf-8")
    uncommented = "\n".join(
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in text.splitlines()
    )
    named = leaves(tomllib.loads(uncommented))
    for header, setting in SETTINGS:
        path = [] if header == "top" else header.split(".")
        assert any(
            len(x) == len(path) + 1
            and x[-1] == setting.name
            and all(want in (have, "NAME") for want, have in zip(path, x))
            for x in named
        ), f"{header}.{setting.name}"


def test_example_passes_check(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, with nothing to be said about it but what is not installed here."""
    assert main(shlex.split(f"check {EXAMPLE}")) == 0
    out = capsys.readouterr().out
    warnings = out.count("warning: the program is not there\n")
    assert out.endswith(f"0 errors, {warnings} warning{'s' * (warnings != 1)}\n")


def test_files_of_the_document_are_right(tmp_path: Path) -> None:
    """But for what is not there: other upstreams, and secrets."""
    path = tmp_path / "config.toml"
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 4
    for block in blocks:
        path.write_text(block)
        said = {x.text.rpartition(": ")[2] for x in load.load(str(path), {}).problems.found}
        assert said <= {
            "there is no upstream", "there is no such upstream", "No such file or directory",
            "there are none; systemd's LoadCredential= gives them",
        }

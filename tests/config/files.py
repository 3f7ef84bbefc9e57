"""Configuration files for tests: written where a test may write, read as the proxy reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxy_actors.config import load, mcp_json
from proxy_actors.config.load import Loaded
from proxy_actors.config.model import Config

UPSTREAM = '[upstreams.files]\ncommand = ["server"]\n'


def read(directory: Path, text: str, environment: Mapping[str, str] = {}) -> Loaded:
    """Read a TOML file of this text."""
    path = directory / "config.toml"
    path.write_text(text, encoding="utf-8", newline="")
    return load.load(str(path), environment)


def read_json(directory: Path, text: str, environment: Mapping[str, str] = {}) -> Loaded:
    """Read an mcpServers file of this text."""
    path = directory / "mcp.json"
    path.write_text(text, encoding="utf-8", newline="")
    return mcp_json.load(str(path), environment)


def config_of(loaded: Loaded) -> Config:
    """Return the configuration; nothing may be wrong with it."""
    assert loaded.config is not None, told(loaded)
    return loaded.config


def told(loaded: Loaded) -> list[str]:
    """Return what is said, in the order of the file: line:column severity: text (hint)."""
    found = sorted(loaded.problems.found, key=lambda x: (x.position.line, x.position.column))
    return [
        f"{x.position.line}:{x.position.column} {x.severity}: {x.text}"
        + (f" ({x.hint})" if x.hint else "")
        for x in found
    ]

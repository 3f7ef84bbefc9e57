"""Reads the `mcpServers` files of MCP clients, as Claude Desktop and Claude Code write them.

Each server becomes an upstream. Whatever a client keeps there for itself is reported as ignored,
key by key, and never silently taken for something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from proxy_actors.config import positions
from proxy_actors.config.load import Loaded, judge, read_text, unreadable, usable
from proxy_actors.config.positions import Path, Position, Positions
from proxy_actors.config.problems import Problems, suggestion

_SERVERS = "mcpServers"
_NOT_IN_NAME = re.compile(r"[^a-z0-9_-]+")
_STDIO = ("command", "args", "env", "cwd")
_HTTP = ("url", "headers")
NAME_CHARACTERS_MAX = 56  # a number is added to one that is taken
_SWITCHES = ("disabled", "enabled", "transport", "type")
_SSE = "sse"
_HTTP_TYPES = ("http", "streamable-http", "streamable_http", "streamableHttp")


def load(path: str, environment: Mapping[str, str]) -> Loaded:
    """Read a client's file.

    Raises:
        ConfigurationError: there is no such file, or it is no text.
    """
    text = read_text(path)
    try:
        raw = json.loads(text)
        places = positions.of_json(text)
    except json.JSONDecodeError as error:
        problems = Problems(path, Positions(text))
        problems.syntax_error(Position(error.lineno, error.colno), error.msg)
        return Loaded(None, problems)
    except (RecursionError, ValueError) as error:
        return unreadable(path, text, error)
    problems = Problems(path, places)
    for repeated in places.repeated:
        problems.error(repeated, f'"{repeated[-1]}" is there twice')
    servers = raw.get(_SERVERS) if isinstance(raw, dict) else None
    if not isinstance(servers, dict):
        problems.error((_SERVERS,), f'there is no object "{_SERVERS}"', at_value=True)
        return Loaded(None, problems)
    for key in raw.keys() - {_SERVERS}:
        _ignore((key,), problems)
    upstreams: dict[str, Any] = {}
    for name, server in servers.items():
        upstream = _upstream((_SERVERS, name), server, problems)
        if upstream is not None:
            upstreams[_place(name, upstream, upstreams, problems)] = upstream
    if not upstreams:
        if not problems.errors:
            text = "there is no server that is enabled and can be served"
            problems.error((_SERVERS,), text)
        return Loaded(None, problems)
    return judge({"upstreams": upstreams}, problems, environment)


def load_or_fail(path: str, environment: Mapping[str, str]) -> Loaded:
    """Read a client's file that is to be used now; what it ignored is in the problems.

    Raises:
        ConfigurationError: the file has errors, all of which are in the text.
    """
    return usable(load(path, environment))


def _upstream(path: Path, server: Any, problems: Problems) -> dict[str, Any] | None:
    """Make the table of an upstream; None for a server that is not to be served."""
    name = path[1]
    if not isinstance(server, dict):
        problems.hide(path)
        problems.error(path, f"{name} must be an object", at_value=True)
        return None
    for switch in ("disabled", "enabled"):
        if not isinstance(server.get(switch, True), bool):
            problems.hide((*path, switch))
            problems.error((*path, switch), f"{switch} is true or false", at_value=True)
    if server.get("disabled") is True or server.get("enabled") is False:
        problems.warn(path, f"{name} is disabled, and left out")
        return None
    said = "transport" if "transport" in server and "type" not in server else "type"
    kind = server.get(said, "http" if "url" in server else "stdio")
    if kind not in ("stdio", _SSE, *_HTTP_TYPES):
        problems.hide((*path, said))
        hint = suggestion(str(kind), ("stdio", "http", _SSE))
        text = f"{name}: {said} is stdio, http or sse"
        problems.error((*path, said), text, hint, at_value=True)
        return None
    known = _STDIO if kind == "stdio" else _HTTP
    for key in server.keys() - {*known, *_SWITCHES}:
        _ignore((*path, key), problems)
    if kind == "stdio":
        return _stdio(path, server, problems)
    if "url" not in server:
        problems.error(path, f'{name} needs a "url"')
        return None
    upstream = {key: server[key] for key in _HTTP if key in server}
    return {**upstream, "transport": _SSE} if kind == _SSE else upstream


def _stdio(path: Path, server: dict[str, Any], problems: Problems) -> dict[str, Any] | None:
    command, arguments = server.get("command"), server.get("args", [])
    if not isinstance(command, str):
        problems.error(path, f'{path[1]} needs a "command", or a "url"')
        return None
    if not isinstance(arguments, list):
        problems.error((*path, "args"), "args must be a list", at_value=True)
        return None
    return {
        "command": [command, *arguments],
        **{key: server[key] for key in ("env", "cwd") if key in server},
    }


def _ignore(path: Path, problems: Problems) -> None:
    problems.hide(path)
    where = f" of {path[1]}" if len(path) > 1 else ""
    problems.warn(path, f'"{path[-1]}"{where} is ignored')


def _place(
    name: str, upstream: Mapping[str, Any], taken: Mapping[str, Any], problems: Problems
) -> str:
    """Find the name under which a server is served, and say where it stands in the text."""
    unique = _name(name, taken)
    stands_at, place = (_SERVERS, name), ("upstreams", unique)
    if unique != name:
        problems.warn(stands_at, f"{name} is served at /mcp/{unique}")
    problems.positions.rename(place, stands_at)
    for number in range(1, len(upstream.get("command", ()))):
        problems.positions.rename((*place, "command", number), (*stands_at, "args", number - 1))
    return unique


def _name(name: str, taken: Mapping[str, Any]) -> str:
    """Make a name that can stand in a path, different from those that are taken."""
    plain = _NOT_IN_NAME.sub("-", name.lower()).strip("-_")[:NAME_CHARACTERS_MAX] or "server"
    number = 2
    unique = plain
    while unique in taken:
        unique = f"{plain}-{number}"
        number += 1
    return unique

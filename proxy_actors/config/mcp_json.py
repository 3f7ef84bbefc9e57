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
from proxy_actors.config.load import Loaded, judge, read_text, syntax_error, usable
from proxy_actors.config.positions import Path, Position, Positions
from proxy_actors.config.problems import Problem, Problems, Severity

_SERVERS = "mcpServers"
_NOT_IN_NAME = re.compile(r"[^a-z0-9_-]+")
_STDIO = ("command", "args", "env", "cwd")
_HTTP = ("url", "headers")
_SWITCHES = ("disabled", "enabled", "type")
_HTTP_TYPES = ("http", "streamable-http", "streamableHttp")


def load(path: str, environment: Mapping[str, str]) -> Loaded:
    """Read a client's file.

    Raises:
        ConfigurationError: there is no such file, or it is no text.
    """
    text = read_text(path)
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        problems = Problems(path, Positions(text))
        place = Position(error.lineno, error.colno)
        problems.found.append(Problem(Severity.ERROR, place, error.msg[0].lower() + error.msg[1:]))
        return Loaded(None, problems)
    except RecursionError:
        return syntax_error(path, text, "nested too deep")
    problems = Problems(path, positions.of_json(text))
    servers = raw.get(_SERVERS) if isinstance(raw, dict) else None
    if not isinstance(servers, dict):
        problems.error((), f'there is no object "{_SERVERS}"')
        return Loaded(None, problems)
    for key in raw.keys() - {_SERVERS}:
        problems.warn((key,), f'"{key}" is ignored')
    upstreams: dict[str, Any] = {}
    for name, server in servers.items():
        upstream = _upstream((_SERVERS, name), server, problems)
        if upstream is not None:
            unique = _name(name, upstreams)
            upstreams[unique] = upstream
            problems.positions.rename(("upstreams", unique), (_SERVERS, name))
    if not upstreams and not problems.errors:
        problems.error((_SERVERS,), "there is no server that is enabled and can be served")
    if problems.errors:
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
    if not isinstance(server, dict):
        problems.error(path, f"{path[1]} must be an object", at_value=True)
        return None
    if server.get("disabled") is True or server.get("enabled") is False:
        problems.warn(path, f"{path[1]} is disabled, and left out")
        return None
    kind = server.get("type", "http" if "url" in server else "stdio")
    if kind == "sse":
        problems.warn(path, f"{path[1]} speaks HTTP+SSE, which is not served yet, and is left out")
        return None
    known = (*_HTTP, *_SWITCHES) if "url" in server else (*_STDIO, *_SWITCHES)
    for key in server.keys() - set(known):
        problems.warn((*path, key), f'"{key}" of {path[1]} is ignored')
    if kind not in ("stdio", *_HTTP_TYPES):
        problems.error((*path, "type"), f"{path[1]}: the type {kind!r} is not known", at_value=True)
    if "url" in server:
        return {key: server[key] for key in _HTTP if key in server}
    command = server.get("command")
    arguments = server.get("args", [])
    if not isinstance(command, str) or not isinstance(arguments, list):
        problems.error(path, f'{path[1]} needs a "url", or a "command" and a list "args"')
        return None
    return {
        "command": [command, *arguments],
        **{key: server[key] for key in ("env", "cwd") if key in server},
    }


def _name(name: str, taken: Mapping[str, Any]) -> str:
    """Make a name that can stand in a path, different from those that are taken."""
    plain = _NOT_IN_NAME.sub("-", name.lower()).strip("-_")[:60] or "server"
    number = 2
    unique = plain
    while unique in taken:
        unique = f"{plain}-{number}"
        number += 1
    return unique

"""The files of MCP clients: each server served, or said why not; each key used, or said ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy_actors.config import mcp_json
from proxy_actors.config.upstreams import Upstream
from proxy_actors.options import Transport
from proxy_actors.errors import ConfigurationFileError
from tests.config.files import config_of, read_json, told

CLAUDE_DESKTOP = """\
{
  "globalShortcut": "canary",
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem@2026.1.14", "/srv/files"]
    },
    "git": {
      "command": "/usr/local/bin/mcp-git",
      "env": {"GIT_DIR": "/srv/git"},
      "cwd": "/srv"
    }
  }
}
"""
CLAUDE_CODE = """\
{
  "mcpServers": {
    "api": {
      "type": "http",
      "url": "${API_BASE:-http://127.0.0.1:3000}/mcp",
      "headers": {"Authorization": "Bearer ${API_KEY}"},
      "timeout": 600000,
      "alwaysAllow": ["canary"]
    },
    "old": {"type": "sse", "url": "http://127.0.0.1/sse"},
    "local": {"type": "stdio", "command": "${ROOT}/server", "args": ["--port", "${PORT:-1}"],
              "env": {"KEY": "${API_KEY}"}}
  }
}
"""


def servers(**servers: Any) -> str:
    return json.dumps({"mcpServers": servers})


def test_file_of_claude_desktop_is_served(tmp_path: Path) -> None:
    loaded = read_json(tmp_path, CLAUDE_DESKTOP)
    package = "@modelcontextprotocol/server-filesystem@2026.1.14"
    assert config_of(loaded).upstreams == {
        "filesystem": Upstream(command=("npx", "-y", package, "/srv/files")),
        "git": Upstream(
            command=("/usr/local/bin/mcp-git",), env={"GIT_DIR": "/srv/git"}, cwd="/srv"
        ),
    }
    assert told(loaded) == ['2:3 warning: "globalShortcut" is ignored']


@pytest.mark.parametrize("key", ["type", "transport"])
@pytest.mark.parametrize(
    ("kind", "transport"),
    [
        ("sse", Transport.SSE),
        *((kind, Transport.AUTO) for kind in ("http", "streamable-http", "streamable_http")),
    ],
)
def test_transport_of_a_server_is_read_wherever_clients_keep_it(
    tmp_path: Path, key: str, kind: str, transport: Transport
) -> None:
    loaded = read_json(tmp_path, servers(a={key: kind, "url": "http://127.0.0.1/"}))
    assert config_of(loaded).upstreams["a"].transport is transport
    assert told(loaded) == []


def test_file_of_claude_code_is_served(tmp_path: Path) -> None:
    loaded = read_json(tmp_path, CLAUDE_CODE, {"API_KEY": "k", "ROOT": "/opt"})
    assert config_of(loaded).upstreams == {
        "api": Upstream(url="http://127.0.0.1:3000/mcp", headers={"Authorization": "Bearer k"}),
        "old": Upstream(url="http://127.0.0.1/sse", transport=Transport.SSE),
        "local": Upstream(command=("/opt/server", "--port", "1"), env={"KEY": "k"}),
    }
    assert config_of(loaded).default == "api"
    assert told(loaded) == [
        '7:7 warning: "timeout" of api is ignored',
        '8:7 warning: "alwaysAllow" of api is ignored',
    ]
    assert "canary" not in loaded.problems.render()


def test_url_may_be_secure(tmp_path: Path) -> None:
    """With the system's authorities: these files know no others."""
    text = '{"mcpServers": {"a": {"url": "https://mcp.example.com/mcp"}}}'
    loaded = read_json(tmp_path, text)
    assert told(loaded) == []
    assert config_of(loaded).upstreams["a"] == Upstream(url="https://mcp.example.com/mcp")


def test_variable_that_is_unset_is_told_where_it_is_used(tmp_path: Path) -> None:
    assert told(read_json(tmp_path, CLAUDE_CODE, {"ROOT": "/opt"}))[0] == (
        "6:36 error: upstreams.api.headers.Authorization:"
        " the environment variable API_KEY is not set"
    )
    text = servers(a={"command": "x", "args": ["-v", "${NOPE}"]})
    (line,) = told(read_json(tmp_path, text))
    assert line.endswith("the environment variable NOPE is not set")
    assert line.startswith(f"1:{text.index('${NOPE}')} ")  # the quote before it


@pytest.mark.parametrize(
    ("switches", "served"),
    [
        ({}, True),
        ({"disabled": False}, True),
        ({"enabled": True}, True),
        ({"disabled": False, "enabled": True}, True),
        ({"disabled": True}, False),
        ({"enabled": False}, False),
        ({"disabled": True, "enabled": True}, False),
        ({"disabled": False, "enabled": False}, False),
    ],
)
def test_server_that_is_switched_off_is_left_out(
    tmp_path: Path, switches: dict[str, bool], served: bool
) -> None:
    """In both dialects; whoever says no counts."""
    text = servers(on={"command": "x"}, maybe={"command": "y", **switches})
    loaded = read_json(tmp_path, text)
    assert ("maybe" in config_of(loaded).upstreams) is served
    off = [f"1:{text.index('maybe')} warning: maybe is disabled, and left out"]
    assert told(loaded) == ([] if served else off)


def test_switch_that_says_neither_is_an_error(tmp_path: Path) -> None:
    """A server that somebody meant to switch off must not be started."""
    loaded = read_json(tmp_path, servers(a={"command": "x", "disabled": "true", "enabled": 0}))
    assert [line.partition(" ")[2] for line in told(loaded)] == [
        "error: disabled is true or false",
        "error: enabled is true or false",
    ]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("headers", "stdio"), ("url", "stdio"), ("timeout", "stdio"), ("autoApprove", "stdio"),
        ("command", "http"), ("args", "http"), ("env", "http"), ("transportType", "http"),
    ],
)
def test_key_that_is_not_used_is_told_with_its_line(tmp_path: Path, key: str, kind: str) -> None:
    base = {"command": "x"} if kind == "stdio" else {"url": "http://127.0.0.1/"}
    text = json.dumps({"mcpServers": {"a": {"type": kind, **base, key: "canary"}}}, indent=1)
    loaded = read_json(tmp_path, text)
    assert told(loaded) == [f'6:4 warning: "{key}" of a is ignored']
    assert "canary" not in loaded.problems.render()


@pytest.mark.parametrize("kind", ["http", "streamable-http", "streamableHttp", None])
def test_url_is_served_whatever_its_transport_is_called(tmp_path: Path, kind: str | None) -> None:
    server = {"url": "http://127.0.0.1/"} if kind is None else {
        "type": kind, "url": "http://127.0.0.1/"
    }
    config = config_of(read_json(tmp_path, servers(a=server)))
    assert config.upstreams["a"].url == "http://127.0.0.1/"


@pytest.mark.parametrize(
    ("names", "served"),
    [
        (["My Files"], ["my-files"]),
        (["a/b", "../x?#"], ["a-b", "x"]),
        (["A", "a", "a "], ["a", "a-2", "a-3"]),
        (["a-2", "a", "A"], ["a-2", "a", "a-3"]),
        (["\u00e9\u00e8", "!"], ["server", "server-2"]),
        (["_x_"], ["x"]),
        (["x" * 80, "X" * 80], ["x" * 56, "x" * 56 + "-2"]),
    ],
)
def test_name_that_is_no_path_is_made_one(
    tmp_path: Path, names: list[str], served: list[str]
) -> None:
    """And is told; no server takes the place of another."""
    text = servers(**{name: {"command": name} for name in names})
    loaded = read_json(tmp_path, text)
    upstreams = config_of(loaded).upstreams
    assert {name: upstream.command for name, upstream in upstreams.items()} == {
        name: (was,) for name, was in zip(served, names)
    }
    warned = [line.partition(" ")[2] for line in told(loaded)]
    renamed = [(was, now) for was, now in zip(names, served) if was != now]
    assert warned == [f"warning: {was} is served at /mcp/{now}" for was, now in renamed]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["1:1 error: expecting value"]),
        ('{"mcpServers": {},}', [
            "1:19 error: expecting property name enclosed in double quotes"
        ]),
        ('{"mcpServers":\n {"a": canary}}', ["2:8 error: expecting value"]),
        ('{"a": 1} x', ["1:10 error: extra data"]),
        ("[" * 100_000, ["1:1 error: tables or arrays are nested too deep"]),
        ('{"a":' * 450 + "1" + "}" * 450, ['1:1 error: there is no object "mcpServers"']),
        ("9" * 5000, ["1:1 error: a number has too many digits"]),
        ("[]", ['1:1 error: there is no object "mcpServers"']),
        ('{"servers": {}}', ['1:1 error: there is no object "mcpServers"']),
        ('{"mcpServers": []}', ['1:16 error: there is no object "mcpServers"']),
        ('{"mcpServers": {}}', [
            "1:2 error: there is no server that is enabled and can be served"
        ]),
        ('{"mcpServers": {"a": {"command": "x", "command": "y"}}}', [
            '1:39 error: "command" is there twice'
        ]),
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', [
            '1:40 error: "a" is there twice'
        ]),
        ('{"mcpServers": {"a": "canary"}}', ["1:22 error: a must be an object"]),
        ('{"mcpServers": {"a": {}}}', ['1:17 error: a needs a "command", or a "url"']),
        ('{"mcpServers": {"a": {"command": ["x"]}}}', [
            '1:17 error: a needs a "command", or a "url"'
        ]),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', [
            "1:47 error: args must be a list"
        ]),
        ('{"mcpServers": {"a": {"command": "x", "args": ["y", 1]}}}', [
            "1:53 error: upstreams.a.command[2]: expected str, got int"
        ]),
        ('{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}', [
            "1:52 error: upstreams.a.env.A: expected str, got int"
        ]),
        ('{"mcpServers": {"a": {"command": "x", "env": null}}}', [
            "1:46 error: upstreams.a.env must be a table"
        ]),
        ('{"mcpServers": {"a": {"type": "stdoi", "command": "x"}}}', [
            '1:31 error: a: type is stdio, http or sse (did you mean "stdio"?)'
        ]),
        ('{"mcpServers": {"a": {"type": ["canary"]}}}', [
            "1:31 error: a: type is stdio, http or sse"
        ]),
        ('{"mcpServers": {"a": {"transport": "ssee", "url": "http://h/"}}}', [
            '1:36 error: a: transport is stdio, http or sse (did you mean "sse"?)'
        ]),
        ('{"mcpServers": {"a": {"type": "http", "command": "x"}}}', [
            '1:17 error: a needs a "url"', '1:39 warning: "command" of a is ignored'
        ]),
        ('{"mcpServers": {"a": {"url": 5}}}', [
            "1:30 error: upstreams.a.url: expected str, got int"
        ]),
        ('{"mcpServers": {"a": {"url": "ftp://h/"}}}', [
            "1:30 error: this is not an http:// or https:// URL"
        ]),
    ],
)
def test_mistake_is_told_at_its_place(tmp_path: Path, text: str, said: list[str]) -> None:
    loaded = read_json(tmp_path, text)
    assert loaded.config is None
    assert told(loaded) == said
    assert "canary" not in loaded.problems.render()


def test_all_mistakes_are_told_in_one_run(tmp_path: Path) -> None:
    """Those of the dialect and those of the settings."""
    text = servers(a="x", b={"command": "y", "env": {"A": 1}}, c={"url": "nope"}, d={})
    assert [line.partition(" ")[2] for line in told(read_json(tmp_path, text))] == [
        "error: a must be an object",
        "error: upstreams.b.env.A: expected str, got int",
        "error: this is not an http:// or https:// URL",
        'error: d needs a "command", or a "url"',
    ]


@pytest.mark.parametrize("depth", range(40, 1000, 47))
def test_no_depth_of_nesting_is_too_deep_for_a_message(tmp_path: Path, depth: int) -> None:
    """The walker goes as deep as the parser went, or the file is too deep."""
    assert told(read_json(tmp_path, '{"a":' * depth + "1" + "}" * depth))


def test_file_of_windows_is_read(tmp_path: Path) -> None:
    """With the mark that editors there put before it."""
    text = "\ufeff" + CLAUDE_DESKTOP.replace("\n", "\r\n")
    assert told(read_json(tmp_path, text)) == ['2:3 warning: "globalShortcut" is ignored']


def test_file_that_is_to_be_used_has_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(servers(a={"command": "x"}))
    assert mcp_json.load_or_fail(str(path), {}).config is not None
    path.write_text("{}")
    with pytest.raises(ConfigurationFileError, match="there is no object"):
        mcp_json.load_or_fail(str(path), {})

"""A file becomes values, or everything that is wrong with it is said in one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy_actors.config import load
from proxy_actors.config.load import FILE_CHARACTERS_MAX
from proxy_actors.config.model import Config, LimitKey
from proxy_actors.config.upstreams import Upstream
from proxy_actors.errors import ConfigurationError, ConfigurationFileError
from proxy_actors.options import StdioMode, Transport
from tests.config.files import UPSTREAM, config_of, read, told


def test_one_upstream_is_enough(tmp_path: Path) -> None:
    config = config_of(read(tmp_path, '[upstreams.a]\ncommand = ["server", "-x"]'))
    assert config == Config(upstreams={"a": Upstream(command=("server", "-x"))})
    assert config.default == "a"


def test_everything_that_is_written_is_read(tmp_path: Path) -> None:
    text = """
        version = 1
        listen = "[::1]:9"
        state-dir = "d"
        default-upstream = "b"
        [upstreams.a]
        command = ["server"]
        env = { B = "1" }
        stdio = "pool"
        children = 3
        [upstreams.b]
        url = "http://127.0.0.1/mcp"
        headers = { X-Token = "${T}" }
        transport = "sse"
        call-timeout-s = 5
        pool.idle-timeout-s = 1.5
        [http]
        allowed-hosts = ["a", "b"]
        [[keys]]
        id = "ann"
        sha256 = "ABCDEF0000000000000000000000000000000000000000000000000000000000"
        tier = "gold"
        [[rate-limits.rules]]
        name = "calls"
        key = "session"
        rate = 1
        burst = 2
        tiers = { gold = { rate = 0.5, burst = 3 } }
    """
    config = config_of(read(tmp_path, text, {"T": "x"}))
    a, b = config.upstreams["a"], config.upstreams["b"]
    assert (config.listen, config.state_dir, config.default) == ("[::1]:9", "d", "b")
    assert (a.command, a.env, a.stdio, a.children) == (("server",), {"B": "1"}, StdioMode.POOL, 3)
    assert (b.headers, b.call_timeout_s, b.pool.idle_timeout_s) == ({"X-Token": "x"}, 5.0, 1.5)
    assert b.transport is Transport.SSE
    assert config.http.allowed_hosts == ("a", "b")
    assert [(key.id, key.tier) for key in config.keys] == [("ann", "gold")]
    (rule,) = config.rate_limits.rules
    assert (rule.key, rule.tiers["gold"].rate) == (LimitKey.SESSION, 0.5)


def test_all_mistakes_are_told_in_one_run(tmp_path: Path) -> None:
    """However many are in one table, and in tables below one that has mistakes itself."""
    text = """\
versoin = 1
listen = 8808
[upstreams.files]
comand = ["x"]
url = "ftp://127.0.0.1/mcp"
call-timeout-s = 0
headers = { "no name" = "x" }
[upstreams.files.pool]
max-sze = 0
idle-min = 99
[upstreams."No Name"]
command = ["x"]
[[keys]]
id = "a"
[[keys]]
id = "anonymous"
sha256 = "0"
[[keys]]
id = "anonymous"
sha256 = "00000000000000000000000000000000000000000000000000000000000000FF"
[[rate-limits.rules]]
name = "no-rate"
burst = 1
[[rate-limits.rules]]
name = "address"
rate = 1
burst = 1
"""
    assert told(read(tmp_path, text)) == [
        '1:1 error: unknown key "versoin" (did you mean "version"?)',
        "2:10 error: listen: expected str, got int",
        '4:1 error: unknown key "comand" in upstreams.files (did you mean "command"?)',
        "5:7 error: this is not an http:// or https:// URL",
        "6:18 error: upstreams.files.call-timeout-s: expected float > 0.0",
        "7:13 error: this is no name of a header field",
        '9:1 error: unknown key "max-sze" in upstreams.files.pool',
        "10:1 error: idle-min is more than connections-max",
        '11:12 error: "No Name" is no name: lower-case letters, digits, - and _',
        '13:3 error: "sha256" is missing in keys[0]',
        "17:10 error: keys[1].sha256: expected str matching regex '^[0-9a-fA-F]{64}$'",
        "19:1 error: anonymous is who shows no key",
        '21:15 error: "rate" is missing in rate-limits.rules[0]',
        "25:8 error: this name is taken",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams = 3", "1:13 error: upstreams must be a table"),
        ("upstreams.a = 3", "1:15 error: upstreams.a must be a table"),
        (UPSTREAM + "env = []", "3:7 error: upstreams.files.env must be a table"),
        (UPSTREAM + "env = { A = 1 }", "3:13 error: upstreams.files.env.A: expected str, got int"),
        (
            UPSTREAM + 'stdio = "sesion"',
            "3:9 error: upstreams.files.stdio: must be one of session, shared, pool"
            ' (did you mean "session"?)',
        ),
        (
            "[upstreams.a]\nurl = 'http://h/'\ntransport = 'SSE'",
            "3:13 error: upstreams.a.transport: must be one of auto, streamable, sse",
        ),
        (
            UPSTREAM + "stdio = 1",
            "3:9 error: upstreams.files.stdio: must be one of session, shared, pool",
        ),
        (UPSTREAM + "[keys]", "3:2 error: keys: expected array, got object (write [[keys]])"),
        (UPSTREAM + "[[auth]]", "3:3 error: auth must be a table"),
        (
            UPSTREAM + "[sessions]\nidle-timeout-s = nan",
            "4:18 error: sessions.idle-timeout-s: expected float > 0.0",
        ),
        (
            UPSTREAM + "[sessions]\nidle-timeout-s = inf",
            "4:18 error: sessions.idle-timeout-s: expected float <= 31622400.0",
        ),
        (
            UPSTREAM + "[sessions]\nsessions-max = 1_000_001",
            "4:16 error: sessions.sessions-max: expected int <= 1000000",
        ),
        (
            UPSTREAM + "[sessions]\nsessions-max = true",
            "4:16 error: sessions.sessions-max: expected int, got bool",
        ),
        (UPSTREAM + "[http]\nallowed-hosts = [1]", "4:18 error: http.allowed-hosts[0]:"),
        ("version = 2\n" + UPSTREAM, "1:11 error: version: expected int <= 1"),
        ("", "1:1 error: there is no upstream (add [upstreams.NAME])"),
    ],
)
def test_what_does_not_fit_is_told_at_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    loaded = read(tmp_path, text)
    assert loaded.config is None
    (line,) = told(loaded)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen =\n", "1:9 error: invalid value"),
        ("a = 1\na = 2", "2:6 error: cannot overwrite a value"),
        ("[a]\n[a]", "2:3 error: cannot declare ('a',) twice"),
        ('a = """canary', "1:14 error: unterminated string"),
        ("a = 1\nb", "2:2 error: expected '=' after a key in a key/value pair"),
        ("x = " + "9" * 5000, "1:1 error: a number has too many digits"),
        ("x = " + "[" * 5000 + "]" * 5000, "1:1 error: tables or arrays are nested too deep"),
    ],
)
def test_text_that_is_no_toml_is_told_where_it_ends_to_be(
    tmp_path: Path, text: str, said: str
) -> None:
    loaded = read(tmp_path, text)
    assert told(loaded) == [said]
    assert loaded.problems.render().count("\n") == 1


@pytest.mark.parametrize("depth", range(60, 1000, 47))
def test_no_depth_of_nesting_is_too_deep_for_a_message(tmp_path: Path, depth: int) -> None:
    """The walker goes as deep as the parser went, or the file is too deep."""
    read(tmp_path, f"x = {'[' * depth}{']' * depth}")
    read(tmp_path, f"x = {'{a=' * depth}1{'}' * depth}")


def test_file_with_the_line_ends_of_windows_and_a_mark_is_read(tmp_path: Path) -> None:
    """Editors there write both."""
    text = '\ufeff[upstreams.a]\r\ncommand = ["x"]\r\nstdoi = "pool"\r\n'
    assert told(read(tmp_path, text)) == [
        '3:1 error: unknown key "stdoi" in upstreams.a (did you mean "stdio"?)'
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "is not UTF-8 text"),
        (b"#" * (FILE_CHARACTERS_MAX + 1), "is too large to be a configuration"),
    ],
)
def test_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load.load(str(path), {})
    assert str(caught.value) == f"{path} {said}"


def test_file_that_is_to_be_used_has_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(UPSTREAM)
    assert load.load_or_fail(str(path), {}).config is not None
    path.write_text("listne = 1")
    with pytest.raises(ConfigurationFileError) as caught:
        load.load_or_fail(str(path), {})
    assert str(caught.value).startswith(f"{path}:1:1: error: ")
    assert str(caught.value).endswith("2 errors, 0 warnings")

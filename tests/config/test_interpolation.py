"""References in values: every form, and nothing that comes from elsewhere is more than a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy_actors.config.interpolation import BYTES_MAX, interpolate, refers
from proxy_actors.errors import ConfigurationError
from tests.config.files import config_of, read, told

ENVIRONMENT = {"VAR": "value", "EMPTY": "", "NESTED": "${VAR} $$ $VAR", "_a1": "x"}


def refused(text: str, environment: dict[str, str] = ENVIRONMENT) -> str:
    """Return what is said about a text."""
    with pytest.raises(ConfigurationError) as caught:
        interpolate(text, environment)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain } { text", "plain } { text"),
        ("${VAR}", "value"),
        ("a${VAR}b${_a1}c", "avaluebxc"),
        ("${VAR:-other}", "value"),
        ("${UNSET:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-a:-b $ {c}", "a:-b $ {c"),
        ("${UNSET:-https://host:1/x}", "https://host:1/x"),
        ("$VAR and $", "$VAR and $"),
        ("$$", "$"),
        ("$${VAR}", "${VAR}"),
        ("$$$${VAR}", "$${VAR}"),
        ("$$${VAR}", "$value"),
        ("${NESTED}", "${VAR} $$ $VAR"),
        ("${UNSET:-$$}", "$$"),
    ],
)
def test_reference_is_replaced_by_its_value_once(text: str, value: str) -> None:
    """What comes in is not looked at again."""
    assert interpolate(text, ENVIRONMENT) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${UNSET}", "the environment variable UNSET is not set"),
        ("a ${UNSET} b", "the environment variable UNSET is not set"),
        ("${}", "no reference has this form"),
        ("${ VAR }", "no reference has this form"),
        ("${1A:-canary}", "no reference has this form"),
        ("${VAR-canary}", "no reference has this form"),
        ("${env:VAR}", "no reference has this form"),
        ("${VAR", "${ is not closed"),
        ("pa${ssword", "${ is not closed"),
        ("${UNSET:-${VAR}}", "the default of UNSET cannot be a reference"),
        ("${file:}", "needs a path from the root"),
        ("${file:token}", "needs a path from the root"),
        ("${credential:}", "needs a name, which is no path"),
        ("${credential:../token}", "needs a name, which is no path"),
        ("${credential:.token}", "needs a name, which is no path"),
        ("${credential:token}", "${credential:token}: there are none"),
    ],
)
def test_what_cannot_be_replaced_is_an_error(text: str, said: str) -> None:
    """Never a literal, and never a value in the text."""
    assert said in refused(text)
    assert "canary" not in refused(text)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"two\nlines\n\n", "two\nlines\n"),
        (b" \xc3\xa9 ${VAR} $$\n", " \u00e9 ${VAR} $$"),
        (b"", ""),
        (b"x" * BYTES_MAX, "x" * BYTES_MAX),
    ],
)
def test_file_and_credential_are_read(tmp_path: Path, content: bytes, value: str) -> None:
    """As they are, but for one line end."""
    (tmp_path / "token").write_bytes(content)
    assert interpolate(f"<${{file:{tmp_path}/token}}>", {}) == f"<{value}>"
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert interpolate("${credential:token}", environment) == value


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing", None, "cannot be read: No such file or directory"),
        (".", None, "cannot be read: Is a directory"),
        ("token", b"\xff", "cannot be read: not valid UTF-8"),
        ("token", b"x" * (BYTES_MAX + 1), f"has more than {BYTES_MAX} bytes"),
    ],
)
def test_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    reference = f"${{file:{tmp_path}/{name}}}"
    assert refused(reference) == f"{reference} {said}"


@pytest.mark.parametrize(
    ("text", "from_elsewhere"),
    [("${A}", True), ("x${A:-}", True), ("$$", False), ("$${A}", False), ("$A", False)],
)
def test_text_from_elsewhere_is_known(text: str, from_elsewhere: bool) -> None:
    assert refers(text) is from_elsewhere


def test_unset_variable_is_told_with_key_and_line(tmp_path: Path) -> None:
    text = '[upstreams.a]\ncommand = ["server",\n  "${NOPE}"]\nenv = { A = "${NOT}" }\n'
    assert told(read(tmp_path, text)) == [
        "3:3 error: upstreams.a.command[1]: the environment variable NOPE is not set",
        "4:13 error: upstreams.a.env.A: the environment variable NOT is not set",
    ]


def test_keys_are_not_replaced(tmp_path: Path) -> None:
    text = '[upstreams.a]\ncommand = ["x"]\nenv = { "${VAR}" = "${VAR}" }'
    config = config_of(read(tmp_path, text, ENVIRONMENT))
    assert config.upstreams["a"].env == {"${VAR}": "value"}


@pytest.mark.parametrize(
    "value", ['x"]\nlisten = "0.0.0.0:1', '["a", "b"]', "{ A = 1 }", "a b", "a\\nb", "'", "#"]
)
def test_value_from_elsewhere_stays_one_value(tmp_path: Path, value: str) -> None:
    """It comes in after the file was parsed."""
    text = '[upstreams.a]\ncommand = ["${V}", "x"]\nenv = { A = "${V}" }'
    config = config_of(read(tmp_path, text, {"V": value}))
    assert config.upstreams["a"].command == (value, "x")
    assert config.upstreams["a"].env == {"A": value}
    assert config.listen == "127.0.0.1:8808"


def test_table_or_array_does_not_come_from_elsewhere(tmp_path: Path) -> None:
    text = '[upstreams.a]\ncommand = "${V}"\nenv = "${V}"'
    assert told(read(tmp_path, text, {"V": "[]"})) == [
        "2:11 error: upstreams.a.command: expected array, got str",
        "3:7 error: upstreams.a.env must be a table",
    ]


def test_number_and_switch_may_come_from_elsewhere(tmp_path: Path) -> None:
    """A variable has no other type than text; what is written as text in the file has."""
    text = """
        [upstreams.a]
        url = "http://127.0.0.1:${PORT}/mcp"
        call-timeout-s = "${SECONDS:-2.5}"
        [upstreams.a.pool]
        connections-max = "${NUMBER}"
        [auth]
        anonymous = "${SWITCH}"
        [[keys]]
        id = "${ID}"
        sha256 = "${DIGEST}"
    """
    environment = {"PORT": "1", "NUMBER": "7", "SWITCH": "false", "ID": "ann", "DIGEST": "0" * 64}
    config = config_of(read(tmp_path, text, environment))
    upstream = config.upstreams["a"]
    assert (upstream.url, upstream.call_timeout_s) == ("http://127.0.0.1:1/mcp", 2.5)
    assert (upstream.pool.connections_max, config.auth.anonymous) == (7, False)
    assert told(read(tmp_path, text, {**environment, "NUMBER": "0", "SWITCH": "no"})) == [
        "6:27 error: upstreams.a.pool.connections-max: expected int >= 1",
        "8:21 error: auth.anonymous: expected bool, got str",
    ]


@pytest.mark.parametrize("value", ["a\0b", "a\udcffb"])
def test_value_that_no_command_can_hold_is_an_error(tmp_path: Path, value: str) -> None:
    text = '[upstreams.a]\ncommand = ["x"]\nenv = { A = "${V}" }'
    assert told(read(tmp_path, text, {"V": value})) == [
        "3:13 error: upstreams.a.env.A: this has a NUL, or half of a character"
    ]

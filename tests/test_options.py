"""What the options of `run` accept and how they refuse the rest."""

from __future__ import annotations

import pytest

from proxy_actors.errors import ConfigurationError
from proxy_actors.options import RunOptions, parse_env, parse_listen, parse_url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8808", ("127.0.0.1", 8808)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("0.0.0.0:080", ("0.0.0.0", 80)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    """RFC 3986 section 3.2.2 for the brackets."""
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "8808", ":8808", "localhost", "localhost:", "localhost:http", "h:-1", "h:65536",
     "h:999999999999999999999", "h:٣", "::1:8808"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The text names what was given."""
    with pytest.raises(ConfigurationError, match=f"{text!r}".replace("(", r"\(")):
        parse_listen(text)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:3000/mcp", "https://mcp.example.org", "http://[::1]:80/a?b=c%20d"],
)
def test_a_url_is_returned_unchanged(url: str) -> None:
    """What the operator wrote is what the server gets."""
    assert parse_url(url) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/", "not an http"),
        ("example.org/mcp", "not an http"),
        ("http://", "names no host"),
        ("http://:80/", "names no host"),
        ("http://example.org:0/", "names no host and port"),
        ("http://example.org:99999/", "not a URL"),
        ("http://example.org:abc/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://user:secret@example.org/", "user name or password"),
        ("http://example.org/#top", "fragment"),
        ("http://example.org/a b", "no spaces"),
        ("http://example.org/\r\nHost: evil", "no spaces"),
        ("http://exämple.org/", "beyond ASCII"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, reason: str) -> None:
    """A secret is not repeated in the refusal."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_a_variable_is_set_or_passed_on() -> None:
    """An empty value is a value."""
    environment = {"TOKEN": "t"}
    assert parse_env("TOKEN", environment) == ("TOKEN", "t")
    assert parse_env("TOKEN=", environment) == ("TOKEN", "")
    assert parse_env("A=b=c", {}) == ("A", "b=c")


@pytest.mark.parametrize("text", ["", "=x", "1A=x", "A B=x", "A-B", "MISSING"])
def test_a_variable_without_name_or_value_is_refused(text: str) -> None:
    """POSIX.1-2017 section 8.1."""
    with pytest.raises(ConfigurationError):
        parse_env(text, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"command": ()},
        {"command": ("a",), "url": "http://a/"},
        {"command": ("a",), "listen_port": 65536},
        {"command": ("a",), "children": 0},
        {"command": ("a",), "children": 257},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    """The struct is sound wherever it was made."""
    fields: dict[str, object] = {"listen_host": "127.0.0.1", "listen_port": 0, **wrong}
    with pytest.raises(ConfigurationError):
        RunOptions(**fields)  # type: ignore[arg-type]


def test_the_environment_is_not_shown() -> None:
    """Values passed on are secrets, and options get logged."""
    options = RunOptions("127.0.0.1", 0, command=("a",), env=(("TOKEN", "hush"),))
    assert "hush" not in repr(options)

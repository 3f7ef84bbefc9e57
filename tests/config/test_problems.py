"""What the author of a file reads: where, what, the line itself, and what was probably meant."""

from __future__ import annotations

import pytest

from proxy_actors.config.positions import Position, of_toml
from proxy_actors.config.problems import Problems, dotted, suggestion

TEXT = """\
listen = "x"

[upstreams.files.pool]
max-sze = 0
\tidle-min = 9
"""


@pytest.fixture
def problems() -> Problems:
    return Problems("/etc/proxy_actors/config.toml", of_toml(TEXT))


def test_report_is_in_the_order_of_the_file_and_ends_with_a_count(problems: Problems) -> None:
    pool = ("upstreams", "files", "pool")
    problems.warn((*pool, "idle-min"), "idle-min is much")
    problems.error((*pool, "max-sze"), 'unknown key "max-sze"', 'did you mean "max-size"?')
    problems.error(("listen",), "this is no address", at_value=True)
    assert problems.render() == (
        "/etc/proxy_actors/config.toml:1:10: error: this is no address\n"
        '  1 | listen = "x"\n'
        "    |          ^\n"
        '/etc/proxy_actors/config.toml:4:1: error: unknown key "max-sze"\n'
        "  4 | max-sze = 0\n"
        '    | ^^^^^^^ did you mean "max-size"?\n'
        "/etc/proxy_actors/config.toml:5:2: warning: idle-min is much\n"
        "  5 |  idle-min = 9\n"
        "    |  ^^^^^^^^\n"
        "2 errors, 1 warning"
    )
    assert problems.errors == 2


def test_nothing_found_is_said_too(problems: Problems) -> None:
    assert problems.render() == "0 errors, 0 warnings"


def test_mark_stands_under_its_place_in_line_ten() -> None:
    problems = Problems("f", of_toml("\n" * 9 + "key = 1"))
    problems.error(("key",), "wrong", "mend it", at_value=True)
    assert problems.render().splitlines()[1:3] == ["  10 | key = 1", "     |       ^ mend it"]


def test_terminal_is_sent_no_escapes() -> None:
    """THR-T13: neither by the file's name, nor by its text, nor by a hint."""
    text = '"\x85\u202e\u2028" = 1 # \x9b31m'
    problems = Problems("a\x1b]0;b\x07\nc", of_toml(text))
    problems.error(("\x85\u202e\u2028",), "a\x1b[2Jb", "c\u2066d")
    head, line, mark, count = problems.render().split("\n")
    assert head == r"a\x1b]0;b\x07\nc:1:1: error: a\x1b[2Jb"
    assert line == r'  1 | "\x85\u202e\u2028" = 1 # \x9b31m'
    assert mark == "    | " + "^" * len(r'"\x85\u202e\u2028"') + r" c\u2066d"
    assert count == "1 error, 0 warnings"


def test_mark_stands_under_its_place_behind_what_is_escaped() -> None:
    text = '"\u202e" = { b = 1 }'
    problems = Problems("f", of_toml(text))
    problems.error(("\u202e", "b"), "wrong")
    assert problems.render().splitlines()[1:3] == [
        r'  1 | "\u202e" = { b = 1 }',
        r"    |              ^",
    ]


def test_line_of_a_syntax_error_is_not_shown(problems: Problems) -> None:
    """It may hold a secret where nobody can tell it from a key."""
    problems.syntax_error(Position(4, 9), "Expected '=' after a key")
    assert problems.render() == (
        "/etc/proxy_actors/config.toml:4:9: error: expected '=' after a key\n1 error, 0 warnings"
    )


@pytest.mark.parametrize("name", ["args", "command", "env", "headers", "sha256", "url"])
def test_value_that_may_be_secret_is_not_shown(name: str) -> None:
    text = f'a.{name} = {{ b = "canary", c = [17, "canary"] }}\nx = "{name}"'
    problems = Problems("f", of_toml(text))
    problems.error(("a", name), "wrong")
    problems.error(("x",), "wrong", at_value=True)
    shown = problems.render()
    assert f"1 | a.{name} = {{ b = ****, c = [****, ****] }}\n" in shown
    assert f'2 | x = "{name}"\n' in shown


def test_value_of_an_unknown_key_is_not_shown() -> None:
    problems = Problems("f", of_toml('heders.A = "canary"'))
    problems.hide(("heders",))
    problems.error(("heders",), "wrong")
    assert "1 | heders.A = ****\n" in problems.render()


def test_errors_are_known_by_their_place(problems: Problems) -> None:
    problems.error(("a", "b"), "wrong")
    problems.warn(("c",), "odd")
    assert problems.concern(("a",)) and problems.concern(("a", "b")) and problems.concern(())
    assert not problems.concern(("a", "b", "c")) and not problems.concern(("c",))


def test_paths_are_written_as_people_do() -> None:
    assert dotted(("rate-limits", "rules", 0, "name")) == "rate-limits.rules[0].name"
    assert dotted(()) == ""


def test_what_is_near_is_suggested() -> None:
    assert suggestion("sesion", ["session", "shared"]) == 'did you mean "session"?'
    assert suggestion("x", ["session", "shared"]) == ""

"""Log lines: one record, one line, whatever was logged; and where logging.ini is found."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_actors import logs
from proxy_actors.errors import ConfigurationError

HOSTILE = "a\nb\r\x1b[31m\x00\x7f\x9b\u2028\u202e\u2066\ud800é"
ESCAPED = r"a\nb\r\x1b[31m\x00\x7f\x9b\u2028\u202e\u2066\ud800é"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(message: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    """A log record of a fixed moment."""
    exc_info = None if error is None else (type(error), error, None)
    level = logging.INFO
    made = logging.LogRecord("proxy_actors.x", level, "x.py", 1, message, arguments, exc_info)
    made.created = 1_700_000_000.25
    return made


def test_control_characters_are_escaped_in_text() -> None:
    """A logged line feed must not start a record, nor an escape steer a terminal."""
    line = logs.TextFormatter("%(levelname)s %(name)s %(message)s").format(record("%s", HOSTILE))
    assert line == f"INFO proxy_actors.x {ESCAPED}"


def test_a_traceback_stays_on_its_records_line() -> None:
    """Its text holds what the far end sent."""
    line = logs.TextFormatter("%(message)s").format(record("failed", error=ValueError(HOSTILE)))
    assert line == rf"failed\nValueError: {ESCAPED}"


def test_kept_characters_are_kept() -> None:
    """For a terminal, where lines and tabs may stand."""
    assert logs.printable("a\tb\n\x1b", keep="\n\t") == "a\tb\n\\x1b"


def test_json_is_one_ascii_line_that_gives_everything_back() -> None:
    """No character is lost, none can end the line."""
    line = logs.JsonFormatter().format(record("%s", HOSTILE, error=ValueError("x\ny")))
    assert line.isascii() and line.isprintable()
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "proxy_actors.x",
        "message": HOSTILE,
        "exception": "ValueError: x\ny",
    }


def test_the_packaged_configuration_writes_one_line_a_record(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logging.ini at the top level is the one that is packaged."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(logs, "SYSTEM_INI", Path("absent"))
    top = Path(__file__).parents[1] / "logging.ini"
    assert logs.install().resolve() == top.resolve()
    logging.getLogger("proxy_actors.pool").info("connection_opened upstream=%s", "a\nb")
    logging.getLogger("proxy_actors.pool").debug("not shown")
    day, time, rest = stderr.getvalue().split(" ", 2)
    assert rest == "INFO proxy_actors.pool connection_opened upstream=a\\nb\n"


def test_the_systems_configuration_comes_before_the_packaged_one(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one that was named before both."""
    system, named = tmp_path / "system.ini", tmp_path / "named.ini"
    for path in (system, named):
        path.write_text(logs.PACKAGED_INI.read_text())
    monkeypatch.setattr(logs, "SYSTEM_INI", system)
    assert logs.install() == system
    assert logs.install(str(named)) == named


def test_loggers_that_exist_stay_enabled(root: logging.Logger) -> None:
    """Modules make their loggers when they are imported, before the configuration is read."""
    early = logging.getLogger("proxy_actors.early")
    logs.install(str(logs.PACKAGED_INI))
    assert not early.disabled


def test_a_level_replaces_that_of_the_file(root: logging.Logger) -> None:
    """--log-level."""
    logs.install(str(logs.PACKAGED_INI), "debug")
    assert root.level == logging.DEBUG


@pytest.mark.parametrize("text", [None, "", "[loggers]\nkeys = root\n", "\x00"])
def test_a_file_that_cannot_be_used_is_a_configuration_error(
    root: logging.Logger, tmp_path: Path, text: str | None
) -> None:
    """The text names the file."""
    path = tmp_path / "my.ini"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="my.ini"):
        logs.install(str(path))


def test_an_unknown_level_is_a_configuration_error() -> None:
    """Before anything was changed."""
    with pytest.raises(ConfigurationError, match="loud"):
        logs.install(level="loud")

"""Reads a configuration file: everything that is wrong with it in one go, or the configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

import msgspec

from proxy_actors.config import certificates, positions
from proxy_actors.config.model import Config
from proxy_actors.config.positions import Position, Positions
from proxy_actors.config.problems import Problems
from proxy_actors.config.reading import Reader
from proxy_actors.config.rules import Rules
from proxy_actors.errors import ConfigurationError, ConfigurationFileError

FILE_CHARACTERS_MAX = 4 * 1024 * 1024
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Loaded(msgspec.Struct, frozen=True):
    """What came of a file: the configuration unless it has errors, and what was found."""

    config: Config | None
    problems: Problems


def load(path: str, environment: Mapping[str, str]) -> Loaded:
    """Read a TOML file.

    Raises:
        ConfigurationError: there is no such file, or it is no text.
    """
    text = read_text(path)
    try:
        raw = tomllib.loads(text)
        places = positions.of_toml(text)
    except tomllib.TOMLDecodeError as error:
        return _syntax_error(path, text, str(error))
    except (RecursionError, ValueError) as error:
        return unreadable(path, text, error)
    return judge(raw, Problems(path, places), environment)


def judge(
    raw: Mapping[str, object], problems: Problems, environment: Mapping[str, str]
) -> Loaded:
    """Make the configuration of tables that were read."""
    config = Reader(problems, environment).section(Config, raw, ())
    Rules(config, raw, problems).check()
    certificates.check(config, problems)
    return Loaded(None if problems.errors else config, problems)


def load_or_fail(path: str, environment: Mapping[str, str]) -> Loaded:
    """Read a TOML file that is to be used now.

    Raises:
        ConfigurationFileError: the file has errors.
    """
    return usable(load(path, environment))


def usable(loaded: Loaded) -> Loaded:
    """Return what came of a file, if that can be used.

    Raises:
        ConfigurationFileError: it has errors.
    """
    if loaded.config is None:
        raise ConfigurationFileError(loaded.problems.render())
    return loaded


def read_text(path: str) -> str:
    """Read a file.

    Raises:
        ConfigurationError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(FILE_CHARACTERS_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text") from error
    if len(text) > FILE_CHARACTERS_MAX:
        raise ConfigurationError(f"{path} is too large to be a configuration")
    return text


def unreadable(path: str, text: str, error: RecursionError | ValueError) -> Loaded:
    """Say what keeps a text from being read that breaks no rule of its format."""
    nested = isinstance(error, RecursionError)
    problems = Problems(path, Positions(text))
    told = "tables or arrays are nested too deep" if nested else "a number has too many digits"
    problems.syntax_error(Position(1, 1), told)
    return Loaded(None, problems)


def _syntax_error(path: str, text: str, message: str) -> Loaded:
    match = _TOML_PLACE.search(message)
    lines = text.split("\n")
    place = Position(len(lines), len(lines[-1]) + 1)
    if match is not None and match[1]:
        place = Position(int(match[1]), int(match[2]))
    problems = Problems(path, Positions(text))
    problems.syntax_error(place, message[: match.start()] if match else message)
    return Loaded(None, problems)

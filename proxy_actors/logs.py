"""How log records become lines: formatters that cannot be fooled, and the configuration's place.

Owns the two formatters that logging.ini names and the search for that file. Decides nothing about
what is logged and opens no log file of its own. `service` installs it; `control` uses `printable`.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path

from proxy_actors.errors import ConfigurationError

SYSTEM_INI = Path("/etc/proxy_actors/logging.ini")
PACKAGED_INI = Path(__file__).with_name("logging.ini")

# What could start a forged record, move a terminal's cursor or reorder what is shown: C0 and C1
# controls, DEL, line separators and bidirectional overrides. Lone surrogates cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, *, keep: str = "") -> str:
    r"""Return `text` with its control characters written as escapes (`\n`, `\x1b`, `\u202e`).

    Args:
        keep: control characters that stay as they are.
    """
    return _UNPRINTABLE.sub(
        lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text
    )


class TextFormatter(logging.Formatter):
    """One record, one line, a traceback included: nothing that was logged can forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as the format string says, control characters escaped."""
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """One record, one JSON object on one ASCII line.

    Members: `time` (RFC 3339, UTC, milliseconds), `level`, `logger`, `message`, and for an error
    that was logged with its traceback `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object; the format string plays no part."""
        moment = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # ASCII output escapes all that `printable` does, except DEL, which JSON allows as it is.
        return json.dumps(entry, separators=(",", ":")).replace("\x7f", "\\u007f")


def install(path: str | None = None, level: str | None = None) -> Path:
    """Configure logging from a file and return which one it was.

    Args:
        path: the file to use; None means /etc/proxy_actors/logging.ini if it exists, else the
            packaged one.
        level: a level name that replaces the root logger's.

    Raises:
        ConfigurationError: the file cannot be read or is not a logging configuration, or the
            level is unknown.
    """
    if level is not None and level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(f"{level!r} is not a log level")
    # Brings socket, which nobody needs who only looks at a file.
    from logging.config import fileConfig

    chosen = _choose(path)
    try:
        with chosen.open(encoding="utf-8") as file:
            fileConfig(file, disable_existing_loggers=False)
    except Exception as error:  # fileConfig evaluates the file's text: it can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"logging cannot be set up from {chosen}: {reason}") from error
    if level is not None:
        logging.getLogger().setLevel(level.upper())
    return chosen


def _choose(path: str | None) -> Path:
    if path is not None:
        return Path(path)
    return SYSTEM_INI if SYSTEM_INI.exists() else PACKAGED_INI

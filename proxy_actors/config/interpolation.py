"""Values from elsewhere in the values of a file: environment, files, systemd credentials.

`${VAR}`, `${VAR:-default}`, `${file:/path}` and `${credential:name}`; `$$` is a dollar sign. It
happens after the file was parsed, so what comes in cannot become a key or a second value, and only
in values. What is unset and has no default is an error: a literal `${TOKEN}` is nobody's token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from proxy_actors.errors import ConfigurationError

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
_REFERENCE = re.compile(r"\$(?:(\$)|\{([^}]*)\})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with every reference replaced by what it refers to.

    Raises:
        ConfigurationError: something is unset or unreadable, or no reference of this form exists.
    """

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[1] else _value(match[2], environment)

    return _REFERENCE.sub(replaced, text)


def refers(text: str) -> bool:
    """Whether a text has references, and so comes from elsewhere."""
    return any(match[2] is not None for match in _REFERENCE.finditer(text))


def _value(reference: str, environment: Mapping[str, str]) -> str:
    source, colon, rest = reference.partition(":")
    if colon and source == "file":
        return _read(Path(rest), f"${{{reference}}}")
    if colon and source == "credential":
        directory = environment.get(CREDENTIALS_DIRECTORY)
        if directory is None:
            raise ConfigurationError(
                f"${{{reference}}}: there are no credentials (systemd's LoadCredential= gives them)"
            )
        if not rest or "/" in rest or rest.startswith("."):
            raise ConfigurationError(f"${{{reference}}}: a credential is named without a path")
        return _read(Path(directory, rest), f"${{{reference}}}")
    name, has_default, default = reference.partition(":-")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"${{{reference}}} is no reference; write $$ for a dollar sign")
    value = environment.get(name)
    if value is None and not has_default:
        raise ConfigurationError(f"the environment variable {name} is not set")
    return default if not value and has_default else str(value)


def _read(path: Path, reference: str) -> str:
    """Read a secret; one line end at the end of the file is not part of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not valid UTF-8"
        raise ConfigurationError(f"{reference} cannot be read: {reason}") from error
    return text.removesuffix("\n").removesuffix("\r")

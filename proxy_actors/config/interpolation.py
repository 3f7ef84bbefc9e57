"""Values from elsewhere in the values of a file: environment, files, systemd credentials.

`${VAR}`, `${VAR:-default}`, `${file:/path}` and `${credential:name}`; `$$` is a dollar sign. It
happens after the file was parsed, so what comes in cannot become a key or a second value, and only
in values. What is unset and has no default is an error: a literal `${TOKEN}` is nobody's token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy_actors.errors import ConfigurationError

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
BYTES_MAX = 64 * 1024
_REFERENCE = re.compile(r"\$(?:(\$)|\{([^}]*)(\}?))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with every reference replaced by what it refers to.

    Raises:
        ConfigurationError: something is unset or unreadable, or no reference of this form exists;
            its text quotes names and paths, and never a value.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if not match[3]:
            raise ConfigurationError("${ is not closed; write $$ for a dollar sign")
        return _value(match[2], environment)

    return _REFERENCE.sub(replaced, text)


def refers(text: str) -> bool:
    """Whether a text has references, and so comes from elsewhere."""
    return any(match[2] is not None for match in _REFERENCE.finditer(text))


def _value(reference: str, environment: Mapping[str, str]) -> str:
    source, colon, rest = reference.partition(":")
    if colon and source == "file":
        if not rest.startswith("/"):
            raise ConfigurationError("${file:...} needs a path from the root, such as /etc/token")
        return _read(rest, f"${{{reference}}}")
    if colon and source == "credential":
        return _credential(rest, environment)
    name, has_default, default = reference.partition(":-")
    if not _NAME.fullmatch(name):
        raise ConfigurationError("no reference has this form; write $$ for a dollar sign")
    if "${" in default:
        raise ConfigurationError(f"the default of {name} cannot be a reference")
    value = environment.get(name)
    if value is None and not has_default:
        raise ConfigurationError(f"the environment variable {name} is not set")
    return default if not value and has_default else str(value)


def _credential(name: str, environment: Mapping[str, str]) -> str:
    """Read what systemd has put where the service alone can read it (systemd.exec(5))."""
    if not name or "/" in name or name.startswith("."):
        raise ConfigurationError("${credential:...} needs a name, which is no path")
    directory = environment.get(CREDENTIALS_DIRECTORY)
    if directory is None:
        raise ConfigurationError(
            f"${{credential:{name}}}: there are none; systemd's LoadCredential= gives them"
        )
    return _read(f"{directory}/{name}", f"${{credential:{name}}}")


def _read(path: str, reference: str) -> str:
    """Read a secret; one line end at the end of the file is not part of it."""
    try:
        with open(path, "rb") as file:
            data = file.read(BYTES_MAX + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not valid UTF-8"
        raise ConfigurationError(f"{reference} cannot be read: {reason}") from error
    if len(data) > BYTES_MAX:
        raise ConfigurationError(f"{reference} has more than {BYTES_MAX} bytes")
    return text.removesuffix("\n").removesuffix("\r")

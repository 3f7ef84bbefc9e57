"""What of the proxy's environment a child process gets: an allow-list, and what was asked for.

The proxy's own secrets live in its environment too; a child gets none of them (THR-T12).
"""

from __future__ import annotations

from collections.abc import Mapping

_INHERITED = frozenset(
    {"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}
)
_INHERITED_PREFIX = "LC_"
_PATH_DEFAULT = "/usr/local/bin:/usr/bin:/bin"


def child_environment(ours: Mapping[str, str], asked_for: Mapping[str, str]) -> dict[str, str]:
    """Make the whole environment of a child.

    Args:
        ours: the environment of this process.
        asked_for: variables that the operator named, which win.
    """
    inherited = {
        name: value
        for name, value in ours.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIX)
    }
    return {"PATH": _PATH_DEFAULT, **inherited, **asked_for}

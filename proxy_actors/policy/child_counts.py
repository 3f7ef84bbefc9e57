"""How often children of a stdio upstream were started, and how often they ended by themselves.

Owns the figures; the policies of the two kinds of stdio upstreams count, their actors tell.
"""

from __future__ import annotations


class ChildCounts:
    """The children of one upstream in figures, since the upstream's actor started.

    Attributes:
        started: all that were started.
        crashed: those that ended without being asked to, or could not be started.
        restarted: of those started, those in the place of one that had crashed.
    """

    def __init__(self) -> None:
        self.started = self.crashed = self.restarted = 0
        self._missing = 0

    def start(self) -> None:
        """Count a start."""
        self.started += 1
        if self._missing:
            self._missing -= 1
            self.restarted += 1

    def crash(self, replaced: bool = True) -> None:
        """Count an end that nobody asked for, and whether another child will take the place."""
        self.crashed += 1
        self._missing += replaced

    def figures(self) -> dict[str, object]:
        """Return them for the description of the upstream's actor."""
        return {x: getattr(self, x) for x in ("started", "crashed", "restarted")}

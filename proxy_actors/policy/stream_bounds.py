"""How many event streams there may be: of a session, of a principal, at an upstream, in all.

Those at an upstream and all of them are for everybody, and a stream may stay open for long; so who
has some may have one more only while enough is left for others (`policy/shares.py`).

Owns a row for each stream that is open, and nothing else of it. A stream is open from its start to
its end, read or not; what is kept of it afterwards for those who have missed some is bounded
elsewhere. Each row is closed once, by whoever is first to see the stream's end; who comes later
finds no row. `actors/stream_directory.py` keeps the books.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from enum import StrEnum

import msgspec

from proxy_actors.policy.shares import may_have_one_more
from proxy_actors.policy.stream_limits import StreamLimits


class StreamKind(StrEnum):
    """What a stream carries: the answer to a call, or what belongs to none."""

    CALL = "call"
    STANDALONE = "standalone"


class StreamBound(StrEnum):
    """The bounds: the first one that is reached is what a client is told.

    SHARE is one client's share of those at its upstream, or of all.
    """

    SESSION = "session"
    PRINCIPAL = "principal"
    UPSTREAM = "upstream"
    ALL = "all"
    SHARE = "share"


class StreamOwner(msgspec.Struct, frozen=True):
    """Whose a stream is.

    Attributes:
        session_key: the key of its session.
        name: its principal's, or an anonymous address's; "" has no share.
        upstream: its upstream's name.
    """

    session_key: str
    name: str = ""
    upstream: str = ""


class StreamBooks:
    """The rows of the streams that are open.

    Args:
        limits: the bounds.
        upstreams: how many streams each upstream may have, by its name; no bound for others.
    """

    def __init__(self, limits: StreamLimits, upstreams: Mapping[str, int] = {}) -> None:
        self._limits = limits
        self._upstreams = upstreams
        self._rows: dict[str, tuple[StreamKind, StreamOwner] | None] = {}
        self._counts: Counter[tuple[StreamBound, Hashable]] = Counter()
        self.open: Counter[StreamKind] = Counter()
        """How many are open, by kind."""
        self.opened: Counter[str] = Counter()
        """How many have ever been opened, by upstream."""

    def __len__(self) -> int:
        return len(self._rows)

    def of_upstream(self, upstream: str) -> int:
        """Return how many of an upstream are open."""
        return self._counts[StreamBound.UPSTREAM, upstream]

    def reached(self, owner: StreamOwner) -> StreamBound | None:
        """Return the bound that keeps this owner from one more stream, if one does."""
        limits, counts = self._limits, self._counts
        of_session, of_name, of_upstream, of_both = (counts[key] for key in _counted(owner))
        free_there = self._upstreams.get(owner.upstream, math.inf) - of_upstream
        free = limits.streams_max - len(self._rows)
        if of_session >= limits.streams_per_session_max:
            return StreamBound.SESSION
        if of_name >= limits.streams_per_principal_max:
            return StreamBound.PRINCIPAL
        if free_there <= 0:
            return StreamBound.UPSTREAM
        if free <= 0:
            return StreamBound.ALL
        has_room = may_have_one_more(of_both, free_there) and may_have_one_more(of_name, free)
        return None if has_room or not owner.name else StreamBound.SHARE

    def enter(self, stream: str, kind: StreamKind, owner: StreamOwner) -> None:
        """Open the row of a stream, whose name no other ever has."""
        assert stream not in self._rows
        self.opened[owner.upstream] += 1
        self._write(stream, (kind, owner), kind, owner, 1)

    def leave(self, stream: str) -> StreamKind | None:
        """Close the row of a stream, and say what it was. Idempotent: then it is nothing."""
        row = self._rows.get(stream)
        if row is not None:
            self._write(stream, None, *row, -1)
            for key in [key for key in _counted(row[1]) if not self._counts[key]]:
                del self._counts[key]
        self._rows.pop(stream, None)
        return None if row is None else row[0]

    def _write(
        self,
        stream: str,
        row: tuple[StreamKind, StreamOwner] | None,
        kind: StreamKind,
        owner: StreamOwner,
        more: int,
    ) -> None:
        """Write a row and all its counts in one step: whoever crashes has written all or nothing.

        The books outlive who writes in them, and a stream that is counted in one place and not in
        another would be so for ever.
        """
        rows, kinds, counts = self._rows, self.open, self._counts
        a, b, c, d = keys = _counted(owner)
        last, *new = kinds[kind] + more, *(counts[key] + more for key in keys)
        rows[stream], kinds[kind], counts[a], counts[b], counts[c], counts[d] = row, last, *new


def _counted(owner: StreamOwner) -> tuple[tuple[StreamBound, Hashable], ...]:
    return (
        (StreamBound.SESSION, owner.session_key),
        (StreamBound.PRINCIPAL, owner.name),
        (StreamBound.UPSTREAM, owner.upstream),
        (StreamBound.SHARE, (owner.name, owner.upstream)),
    )

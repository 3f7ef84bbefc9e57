"""Which streams of the HTTP+SSE transport there are, and what sessions they hold.

Owns the bounds on their number, the ids of their message endpoints and the index from sessions to
streams. What goes on at one of them it does not know. `actors/legacy_streams.py` is its shell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import assert_never

import msgspec

from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyRefusal, LegacyStreamsEffect, LegacyStreamsMessage
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.policy.session_ledger import key_of
from proxy_actors.policy.sessions import ID_PREFIX
from proxy_actors.policy.shares import take_one

PARENT = "legacy"


class LegacyLimits(msgspec.Struct, frozen=True):
    """The bounds on streams.

    Attributes:
        streams_max: in all.
        per_address_max: of one client address.
    """

    streams_max: int = 5000
    per_address_max: int = 5000


class LegacyStreamsPolicy:
    """Decides for all streams.

    Args:
        token: makes an unguessable string of visible ASCII.
    """

    def __init__(self, limits: LegacyLimits, token: Callable[[], str]) -> None:
        self._limits = limits
        self._token = token
        self._address_of: dict[str, str] = {}
        self._per_address: Counter[str] = Counter()
        self._session_of: dict[str, str] = {}
        self._by_session: dict[str, str] = {}
        self._draining = False

    def streams(self) -> list[str]:
        """Name the streams that stand."""
        return list(self._address_of)

    def handle(self, message: LegacyStreamsMessage) -> list[LegacyStreamsEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case m.OpenLegacyStream():
                return [self._open(message.address)]
            case m.SessionHeld(stream, session_key):
                if stream in self._address_of:
                    self._session_of[stream] = session_key
                    self._by_session[session_key] = stream
            case SessionEnded(session):
                held_by = self._by_session.get(session.key)
                return [] if held_by is None else [m.TellEnd(held_by)]
            case m.LegacyStreamStopped(stream):
                self._stopped(stream)
            case m.DrainLegacy():
                self._draining = True
                return [m.TellDrain(stream) for stream in self._address_of]
            case _:
                assert_never(message)
        return []

    def _open(self, address: str) -> LegacyStreamsEffect:
        if self._draining:
            return m.RefuseLegacy(LegacyRefusal.DRAINING)
        if (
            len(self._address_of) >= self._limits.streams_max
            or self._per_address[address] >= self._limits.per_address_max
        ):
            return m.RefuseLegacy(LegacyRefusal.FULL)
        id = ID_PREFIX + self._token()
        stream = stream_of(id)
        self._address_of[stream] = address
        self._per_address[address] += 1
        return m.StartStream(stream, id)

    def _stopped(self, stream: str) -> None:
        address = self._address_of.pop(stream)
        take_one(self._per_address, address)
        session_key = self._session_of.pop(stream, None)
        if session_key is not None:
            del self._by_session[session_key]


def stream_of(id: str) -> str:
    """Return the name of the stream whose message endpoint has this id, which it does not tell."""
    return f"{PARENT}/{key_of(id)}"

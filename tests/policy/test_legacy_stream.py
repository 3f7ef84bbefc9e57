"""The policies of the HTTP+SSE transport: one stream through every order of messages, and all.

MCP-L-5, Z-1, Z-6. Defects are planted, each of which is to be found.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy_actors.messages import legacy as m
from proxy_actors.messages.legacy import LegacyRefusal
from proxy_actors.messages.sessions import EndReason, SessionEnded
from proxy_actors.policy.legacy_stream import LegacyStreamPolicy
from proxy_actors.policy.legacy_streams import LegacyLimits, LegacyStreamsPolicy, stream_of
from tests.defects import Defect, planted
from tests.policy.legacy_stream_model import LegacyStreamSubject
from tests.policy.search import search
from tests.policy.stdio_frames import session


def test_every_order_of_messages_keeps_the_rules() -> None:
    findings = search(LegacyStreamSubject)
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 300


DEFECTS = [
    Defect("anybody finds it", LegacyStreamPolicy, "handle", "(principal, upstream) ==",
           "(self._principal, upstream) =="),
    Defect("found at any upstream", LegacyStreamPolicy, "handle", "(principal, upstream) ==",
           "(principal, self._upstream) =="),
    Defect("found before it is read", LegacyStreamPolicy, "handle",
           " or self._reader is None:", ":"),
    Defect("a second reader", LegacyStreamPolicy, "handle",
           "self._reader is not None or self._over", "self._over"),
    Defect("anybody's leaving ends it", LegacyStreamPolicy, "handle",
           "reader == self._reader else", "reader else"),
    Defect("a session for a stream that is over", LegacyStreamPolicy, "handle",
           "self._over or self._session_key:", "self._session_key:"),
    Defect("a stream that stays without a session", LegacyStreamPolicy, "handle",
           "[] if self._session_key else self._end()", "[]"),
    Defect("ended while the session is being opened", LegacyStreamPolicy, "handle",
           "if self._opening is not None:", "if False:"),
    Defect("drained at once", LegacyStreamPolicy, "_end_if_drained",
           " and not self._requests", ""),
    Defect("begun in a drain", LegacyStreamPolicy, "_begin_requests",
           "if self._draining:", "if False:"),
    Defect("two sessions at once", LegacyStreamPolicy, "_begin_requests",
           " or self._opening is not None", ""),
    Defect("an initialize too many", LegacyStreamPolicy, "_begin_requests",
           "self._session_key or ", ""),
    Defect("one request too many", LegacyStreamPolicy, "_begin_requests",
           "> self._requests_max", "> self._requests_max + 1"),
    Defect("the first answer ends all of a batch", LegacyStreamPolicy, "_end_request",
           "if left > 0:", "if False:"),
    Defect("opening for ever", LegacyStreamPolicy, "_end_request",
           "self._opening = None", "pass"),
    Defect("ended twice", LegacyStreamPolicy, "_end", "[] if self._over else", ""),
    Defect("the reader is left waiting", LegacyStreamPolicy, "leave",
           "effects.append(m.EndReader(self._reader))", "pass"),
    Defect("nothing is cancelled", LegacyStreamPolicy, "leave",
           "if self._requests:", "if False:"),
    Defect("the session stays", LegacyStreamPolicy, "leave", "self._session_key)", '"")'),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert search(LegacyStreamSubject).violation is not None


# All streams.


class Streams:
    """The policy of all streams, with names that count."""

    def __init__(self, limits: LegacyLimits = LegacyLimits()) -> None:
        serial: Iterator[int] = iter(range(1000))
        self.policy = LegacyStreamsPolicy(limits, lambda: str(next(serial)))

    def open(self, address: str = "a") -> m.LegacyStreamsEffect:
        (effect,) = self.policy.handle(m.OpenLegacyStream(1, address, "ann", "default"))
        return effect

    def opened(self, address: str = "a") -> str:
        effect = self.open(address)
        assert isinstance(effect, m.StartStream)
        assert effect.stream == stream_of(effect.id)
        assert effect.id not in effect.stream
        return effect.stream


@pytest.mark.parametrize(
    ("limits", "others"),
    [(LegacyLimits(2, 10), "refused"), (LegacyLimits(10, 2), "opened")],
    ids=["in all", "of an address"],
)
def test_streams_are_bounded_until_one_has_stopped(limits: LegacyLimits, others: str) -> None:
    streams = Streams(limits)
    first, _ = streams.opened(), streams.opened()
    assert streams.open() == m.RefuseLegacy(LegacyRefusal.FULL)
    assert isinstance(streams.open("b"), m.RefuseLegacy) == (others == "refused")
    streams.policy.handle(m.LegacyStreamStopped(first))
    streams.opened()


def test_end_of_a_session_ends_the_stream_that_holds_it() -> None:
    """MCP-L-5."""
    streams = Streams()
    one, other = streams.opened(), streams.opened()
    streams.policy.handle(m.SessionHeld(one, "key-1"))
    streams.policy.handle(m.SessionHeld(other, "key-2"))
    ended = SessionEnded(session("key-2"), EndReason.LOST)
    assert streams.policy.handle(ended) == [m.TellEnd(other)]
    streams.policy.handle(m.LegacyStreamStopped(other))
    assert streams.policy.handle(ended) == []


def test_session_that_a_stopped_stream_held_is_forgotten() -> None:
    streams = Streams()
    name = streams.opened()
    streams.policy.handle(m.LegacyStreamStopped(name))
    streams.policy.handle(m.SessionHeld(name, "key"))
    assert streams.policy.handle(SessionEnded(session("key"), EndReason.LOST)) == []
    assert streams.policy.streams() == []


def test_drain_reaches_every_stream_and_none_is_opened_after_it() -> None:
    streams = Streams()
    names = [streams.opened(), streams.opened()]
    assert streams.policy.handle(m.DrainLegacy()) == [m.TellDrain(name) for name in names]
    assert streams.open() == m.RefuseLegacy(LegacyRefusal.DRAINING)

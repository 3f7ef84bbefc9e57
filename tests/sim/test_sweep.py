"""An actor that crashes, at each place where it can: everybody else goes on, and so does it soon.

RELIABILITY 6.5, P15 and P17, whose sweep this is: every kind of actor of the whole tree, at the
beginning and the end of every message that it is told under load, and at every line that its turns
come to. `SWEEP_STRIDE=1` crashes at all lines, which takes minutes; by default it is one of 48.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from proxy_actors.actors.base import Actor
from proxy_actors.actors.channel import Channel
from proxy_actors.actors.connection_pool import ConnectionPool, ConnectionTable
from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.actors.legacy_stream import LegacyStream
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.gateway.lease import Lease
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.stream_bounds import StreamBooks
from tests.defects import Defect, planted
from tests.sim.crash_points import AFTER, Point
from tests.sim.sweep_scenario import SEEDS, broken_by, find_points

STRIDE = int(os.environ.get("SWEEP_STRIDE", 48))
# So that no test comes near the bound on the time of a test.
PARTS = range(8)
# Kinds that others are made of.
ABSTRACT = frozenset({Channel, Supervisor})

HALVES = (
    Defect("news that an actor crashed over are lost", Slot, "keep",
           "crashed and message is self._feared", "crashed"),
    Defect("a lease counts as given back before it is", Lease, "discard",
           "pool = self._pool", "pool, self._released = self._pool, True"),
    Defect("a connection is forgotten before it is closed", ConnectionTable, "close",
           "stream = self.streams.get(connection_id)",
           "stream = self.streams.pop(connection_id, None)"),
    Defect("what is taken back is nobody's for a moment", ConnectionPool, "_recall",
           "self._closed(self._table.leases.get(lease_id))\n        del kept[lease_id]",
           "del kept[lease_id]\n        self._closed(self._table.leases.get(lease_id))"),
    Defect("a channel is listed before it is known", SessionChannels, "_start_channel",
           "self._listed.add(name)  # first: what is listed and not known to be is so for ever\n"
           "    self._channels.enter(channel.slot)",
           "self._channels.enter(channel.slot)\n    self._listed.add(name)"),
    Defect("a stream of a session is listed before it is started", HttpUpstream,
           "_open_standalone_stream",
           "self.start_child(stream)\n    self._streams.enter_stream(stream.slot, owner)",
           "self._streams.enter_stream(stream.slot, owner)\n    self.start_child(stream)"),
    Defect("a stream of a channel is listed before it is started", Channel, "_start_standalone",
           "self.start_child(stream)\n"
           "    streams.enter_stream(stream.slot, whose)",
           "streams.enter_stream(stream.slot, whose)\n"
           "    self.start_child(stream)"),
    Defect("a row is written in two steps", StreamBooks, "enter",
           "self._write(stream, (kind, owner), kind, owner, 1)",
           "self._rows[stream] = kind, owner\n"
           "    self._write(stream, (kind, owner), kind, owner, 1)"),
    Defect("what a ring holds is written in two steps", ReplayRing, "append",
           "self._bytes, budget.held, share.held ="
           " self._bytes + n, budget.held + n, share.held + n",
           "self._bytes += n\n    budget.held += n\n    share.held += n"),
    Defect("an end that was cut short is not gone on with", LegacyStream, "on_crash",
           "self._apply(self._policy.leave())", "pass"),
)  # fmt: skip
# Where to crash for these; for the others, in the function itself.
NEAR = {
    "news that an actor crashed over are lost": "SessionRegistry at EndSession, before",
    "an end that was cut short is not gone on with": "LegacyStream at Unsubscribe, policy/",
}


@cache
def points() -> tuple[list[Point], list[Point]]:
    """The beginnings and ends of messages, and the lines."""
    found = find_points(SEEDS)
    lines = [point for point in found if 0 < point.step < AFTER]
    return [point for point in found if point not in set(lines)], lines


def test_sweep_comes_to_every_kind_of_actor() -> None:
    kinds, todo = set(), [Actor]
    for kind in todo:
        todo += kind.__subclasses__()
        if kind.__module__.startswith("proxy_actors.") and kind not in {Actor, *ABSTRACT}:
            kinds.add(kind.__name__)
    for kind_of_points in points():
        assert {point.actor for point in kind_of_points} == kinds


@pytest.mark.parametrize("part", PARTS)
def test_crash_at_the_beginning_or_the_end_of_any_message_is_borne(part: int) -> None:
    broken = broken_by(points()[0][part :: len(PARTS)])
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("part", PARTS)
def test_crash_at_any_line_is_borne(part: int) -> None:
    """Whatever it was about to do, and whatever it had done half."""
    broken = broken_by(points()[1][part * STRIDE // len(PARTS) :: STRIDE * len(PARTS)])
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("defect", HALVES, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    """Each was there once: what is done in two steps, and done half by a crash."""
    with planted(defect):
        for seed in SEEDS:
            found = find_points([seed])
            near = NEAR.get(defect.name, "<defect")
            if any(near in str(point) and broken_by([point]) for point in found):
                return
    raise AssertionError(f"the sweep did not find: {defect}")

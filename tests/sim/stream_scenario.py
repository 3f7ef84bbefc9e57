"""The scenario "streams": event streams that break at either side, or both, and go on.

The whole data plane between clients that come back with Last-Event-ID, clients of HTTP+SSE which
cannot, and a server whose streams can be resumed: it ends connections and not streams, waits in
silence, refuses who comes back, or believes that the connection before still stands. Connections
break, greenlets and actors are killed, the server loses its sessions and goes away. Whatever
happens, each event comes once and in order, or the client is told by an error or a truncation; no
call is executed twice; nothing is left over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proxy_actors.actors.http_upstream import HttpUpstream
from proxy_actors.messages.stream import StreamAbandoned
from proxy_actors.policy import event_stream
from proxy_actors.policy.reconnect import ReconnectLimits
from proxy_actors.policy.stream_limits import StreamLimits
from proxy_actors.world.sim_world import SimWorld
from tests.scripted_server import ScriptedServer
from tests.scripted_streams import Resumption
from tests.sim.bounds import other_bounds
from tests.sim.campaign import Scenario
from tests.sim.plane_scenario import FRAGILE, Scene, ScenePlane
from tests.sim.stream_clients import StreamClient
from tests.sim.stream_mutants import MUTANTS
from tests.sim.virtual import start_server

SEEDS = 60
# Some proxies end connections early; longer than the calls that a drain finds.
SHORT_S = 12.0
CLIENT_ANSWER_S = 100.0


class NotedUpstream(HttpUpstream):
    """The upstream; notes when a stream is given up."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, StreamAbandoned):
            assert isinstance(self.world, SimWorld)
            self.world.seen["stream_was_abandoned"] += 1
        return super().on_receive(message)


class StreamPlane(ScenePlane):
    """The proxy."""

    upstream_kind = NotedUpstream


class StreamScene(Scene):
    """One run."""

    fragile_kinds = FRAGILE | {"NotedUpstream", "LegacyStream"}
    plane_kind = StreamPlane
    few_streams = None
    reconnect = ReconnectLimits(base_s=0.5, cap_s=4.0, attempts_max=3, idle_s_max=20.0)

    def run(self) -> None:
        # A call whose client was asked something, and has left, goes on for so long.
        with other_bounds((event_stream, "CLIENT_ANSWER_S_MAX", CLIENT_ANSWER_S)):
            super().run()
        self.world.seen["stream_was_resumed"] += sum(self.server.resumed.values())

    def start_server(self) -> ScriptedServer:
        chance = self.chance
        self.resumption = Resumption(
            retry_ms=chance.choice((None, None, 300, 3000)), jealous=chance.random() < 0.3,
            primes_again=chance.random() < 0.3, after_s=chance.choice((0.0, 0.0, 2.0)),
        )  # fmt: skip
        self.streams = StreamLimits(connection_s_max=chance.choice((0.0, 0.0, SHORT_S)))
        self.renews = chance.random() < 0.3
        return start_server(self.world, resumption=self.resumption)

    def new_client(self) -> StreamClient:
        return StreamClient(self)

    def harms(self) -> Sequence[Callable[[], None]]:
        return (
            self.kill_exchange, self.kill_actor, self.kill_socket, self.break_upstream,
            self.break_upstream, self.refuse, self.lose_sessions, self.go_away,
        )  # fmt: skip

    def break_upstream(self) -> None:
        """Break every connection to the upstream."""
        self.saw("broke_upstream")
        for stream in list(self.plane.table.streams.values()):
            stream.break_off()

    def refuse(self) -> None:
        """Have the upstream refuse who comes back next, some times."""
        status = self.chance.choice((409, 500, 503))
        self.resumption.refusals += [status] * self.chance.randrange(1, 5)

    def heal(self) -> None:
        super().heal()
        self.resumption.refusals.clear()


RARE = frozenset({
    "broke_upstream",
    "came_back_for_an_answer",
    "client_lost_its_connection",
    "crashed_EventStream",
    "killed_stream_reader",
    "legacy_call_was_answered",
    "legacy_stream_was_cut",
    "lost_before_the_first_event",
    "news_arrived",
    "rest_was_refused_410",
    "resumed_at_both_sides",
    "standalone_stream_ended",
    "standalone_stream_was_truncated",
    "stream_was_abandoned",
    "stream_was_resumed",
    "upstream_lost_its_sessions",
    "was_sent_away",
    "upstream_went_away",
})

# 3302: a session makes room for another while its client is away from a call. 3451: a request
# crosses the end of a connection that was idle for long.
STREAMS = Scenario(
    "streams", lambda world: StreamScene(world).run(), RARE, SEEDS, MUTANTS, (3302, 3451)
)

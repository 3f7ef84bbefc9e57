"""The defects that the scenario "streams" must find: those of streams that break and go on."""

from __future__ import annotations

from proxy_actors.actors.event_stream import EventStream
from proxy_actors.gateway.http_events import UpstreamEvents
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.gateway.http_streams import HttpStreams
from proxy_actors.gateway.relay import Reader
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.protocol.sse import SseDecoder
from tests.defects import Defect

SENT_AGAIN = Defect(
    "the call is sent again", HttpStreams, "_hand_over",
    "source = HttpSource(",
    "given, head_of = exchange.accepted.forwarded, self._fields.head_of_post;"
    "go_on = reopen;"
    "reopen = lambda id: upstream.request_id and self._sender.send(Outgoing("
    "self._sender.next_own_id(), b'POST', [head_of(given, session, len(exchange.message.raw)), "
    "exchange.message.raw], Purpose.STREAM, self._world.now_s() + 9, upstream.request_id)"
    ")[0].abandon() or go_on(id)\n    source = HttpSource(",
)  # fmt: skip
MUTANTS = (
    Defect("streams are opened anew without Last-Event-ID", HttpSource, "reopen_into",
           "self._reopen(self._place())", "self._reopen(b'')"),
    Defect("a connection that brings no event forgets the last id", UpstreamEvents, "__init__",
           "SseDecoder(EVENT_BYTES_MAX, after)", "SseDecoder(EVENT_BYTES_MAX)"),
    Defect("an id counts before its event is complete", SseDecoder, "_read_line",
           "self._id_seen = self._event_id = value",
           "self._id_seen = self._event_id = self.last_event_id = value"),
    SENT_AGAIN,
    Defect("a standalone stream that broke ends as if all were well", EventStreamPolicy,
           "_source_ended", "self._standalone and reason is not None", "False"),
    Defect("a connection that broke is not given back", HttpSource, "_end",
           "exchange.abandon()", "pass"),
    Defect("a replay begins one too early", ReplayRing, "since", "number + 1 -", "number -"),
    Defect("who comes back gets what nobody has got", Reader, "__init__",
           "session.key, after)", "session.key, None)"),
    Defect("who has come back is cut in place of its old self", EventStream, "_perform",
           "self._subscribers.find(subscriber_id)", "self._subscriber()"),
)

"""The table of metrics: every name that is ever sent, its kind, its unit, what it tells.

Owns the names and nothing else: data plane and actors count, `policy/` makes figures of what was
counted, the sink sends them, and docs/metrics.md is made from here
(`python -m proxy_actors.metrics FILE`, `make docs`).

A name is a path; a part in braces stands for one of few: an upstream or a rule of the
configuration, an MCP method of the specification, a class of this package. What a client makes up
is never part of a name.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path

import msgspec

_LABEL = re.compile(r"\{(\w+)\}")
_MARK = re.compile(r"(<!-- metrics -->\n).*?(<!-- end -->\n)", re.S)


class Kind(StrEnum):
    """What a metric is to statsd.

    A counter is sent as what has come since the last flush, a gauge as what is, a timer as single
    times, of which statsd makes percentiles.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


class Metric(msgspec.Struct, frozen=True, eq=False):
    """One row of the table, equal to none but itself. `template` is the name below the prefix."""

    template: str
    kind: Kind
    unit: str
    meaning: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The parts in braces."""
        return tuple(_LABEL.findall(self.template))


class Row(msgspec.Struct, frozen=True):
    """Values of a metric, with what stands for the parts in braces.

    `rate` is the share of all values that these are.
    """

    metric: Metric
    labels: tuple[str, ...]
    values: tuple[float, ...]
    rate: float = 1.0


class Figure(msgspec.Struct, frozen=True):
    """Values under the name that they are sent by, without the prefix."""

    name: str
    kind: Kind
    values: tuple[float, ...]
    rate: float = 1.0


def _counter(template: str, unit: str, meaning: str) -> Metric:
    return Metric(template, Kind.COUNTER, unit, meaning)


def _gauge(template: str, unit: str, meaning: str) -> Metric:
    return Metric(template, Kind.GAUGE, unit, meaning)


def _timer(template: str, meaning: str) -> Metric:
    return Metric(template, Kind.TIMER, "ms", meaning)


# The edge.
HTTP_CONNECTIONS = _gauge(
    "http.connections", "connections", "Connections of clients that are open."
)
HTTP_GATED = _gauge(
    "http.gated", "requests",
    "Waiting to be parsed, because the proxy's own thread is too busy.",
)  # fmt: skip
HTTP_PAUSED = _counter(
    "http.paused", "pauses", "Times that accepting was paused because that thread was late."
)
HTTP_REFUSED = _counter(
    "http.refused", "connections",
    "Refused with 503 for want of room: bounds on connections, memory, or descriptors. Of a flood "
    "most are closed without an answer.",
)  # fmt: skip
HTTP_RESPONSES = _counter(
    "http.responses.{class}", "responses",
    "Answers to clients by the class of their status (`2xx`, `4xx`, ...), pages such as /health "
    "and what was refused by its head included.",
)  # fmt: skip

# One upstream and method.
_CALL = "upstream.{upstream}.method.{method}"
REQUESTS = _counter(f"{_CALL}.requests", "requests", "What clients have asked for.")
ERRORS = _counter(
    f"{_CALL}.errors", "requests",
    "Of these, those that got no result: refused, failed, answered with a JSON-RPC error, or their "
    "client left before the answer.",
)  # fmt: skip
TOOL_ERRORS = _counter(
    f"{_CALL}.tool_errors", "requests",
    "Of these, those whose result says `isError`: the call went well, the tool did not.",
)  # fmt: skip
LATENCY = _timer(
    f"{_CALL}.latency",
    "From the last byte of a request to the last byte of its answer, a streamed one included.",
)
QUEUE = _timer(
    f"{_CALL}.queue",
    "How long a request waited for a connection, or a process, of the upstream; only of those that "
    "had to ask for one, and did not have that of the last request on their client's connection.",
)
FIRST_BYTE = _timer(
    f"{_CALL}.first_byte",
    "From the writing of a request to the upstream to the head of its answer; to its first "
    "message, where the upstream is a process.",
)

# One upstream.
UPSTREAM_ERRORS = _counter(
    "upstream.{upstream}.errors.{reason}", "requests",
    "The errors of all methods by what went wrong: a `reason` of the error contract, `refused` "
    "(the client broke a rule), `json-rpc` (the server answered with an error), `client-left`.",
)  # fmt: skip
UPSTREAM_READY = _gauge(
    "upstream.{upstream}.ready", "0 or 1", "Whether the upstream was reached when last tried."
)
CONNECT = _timer(
    "upstream.{upstream}.connect", "How long opening a connection took, those that failed included."
)
RETRIES = _counter(
    "upstream.{upstream}.retries", "retries", "Requests that were sent again after they had failed."
)
RETRIES_REFUSED = _counter(
    "upstream.{upstream}.retries_refused", "requests",
    "Requests that might have been sent again, but for too many retries under way.",
)  # fmt: skip
BREAKER_OPENED = _counter(
    "upstream.{upstream}.breaker.opened", "changes",
    "Circuit breakers, of endpoints and of tools, that have opened.",
)  # fmt: skip
BREAKER_HALF_OPENED = _counter(
    "upstream.{upstream}.breaker.half_opened", "changes", "Those that began to let probes pass."
)
BREAKER_CLOSED = _counter(
    "upstream.{upstream}.breaker.closed", "changes", "Those that let everything pass again."
)
POOL_OPENING = _gauge("upstream.{upstream}.pool.opening", "connections", "Being opened.")
POOL_IDLE = _gauge("upstream.{upstream}.pool.idle", "connections", "Open, and used by nobody.")
POOL_LEASED = _gauge(
    "upstream.{upstream}.pool.leased", "connections",
    "Lent to requests, or kept by a client's connection for its next one.",
)  # fmt: skip
POOL_STREAMING = _gauge(
    "upstream.{upstream}.pool.streaming", "connections", "Lent to event streams."
)
POOL_WAITING = _gauge(
    "upstream.{upstream}.pool.waiting", "requests", "Waiting for a connection."
)
POOL_LIMIT = _gauge(
    "upstream.{upstream}.pool.limit", "calls",
    "How many may be underway at once, where that is found out; else 0.",
)  # fmt: skip
POOL_SHED = _counter(
    "upstream.{upstream}.pool.shed", "requests",
    "Refused at once: too many wait to be served in time, or a client has its share of streams.",
)  # fmt: skip
STREAMS = _gauge("upstream.{upstream}.streams", "streams", "Event streams that are open.")
STDIO_STARTING = _gauge(
    "upstream.{upstream}.stdio.starting", "processes", "Children that are being started, or ended."
)
STDIO_RUNNING = _gauge("upstream.{upstream}.stdio.running", "processes", "Children that run.")
STDIO_STARTED = _counter(
    "upstream.{upstream}.stdio.started", "processes", "Children that were started."
)
STDIO_CRASHED = _counter(
    "upstream.{upstream}.stdio.crashed", "processes",
    "Children that ended without being asked to, or could not be started.",
)  # fmt: skip
STDIO_RESTARTED = _counter(
    "upstream.{upstream}.stdio.restarted", "processes",
    "Of those started, those in the place of one that had crashed.",
)  # fmt: skip

# One endpoint of an upstream; it has the upstream's name where there is only one.
_ENDPOINT = "upstream.{upstream}.endpoint.{endpoint}"
ENDPOINT_STATE = _gauge(
    f"{_ENDPOINT}.state", "0, 1 or 2",
    "2: it takes new sessions. 1: it only serves those that it has. 0: it is down, or in "
    "maintenance.",
)  # fmt: skip
ENDPOINT_ACTIVE = _gauge(
    f"{_ENDPOINT}.active", "requests", "Sent to it, and not answered to the end yet."
)
ENDPOINT_EJECTIONS = _counter(
    f"{_ENDPOINT}.ejections", "ejections", "How often it was ejected because its calls failed."
)
CHECKS_WELL = _counter(f"{_ENDPOINT}.checks.well", "checks", "Active checks that went well.")
CHECKS_FAILED = _counter(f"{_ENDPOINT}.checks.failed", "checks", "Active checks that did not.")

# Event streams to clients.
STREAMS_OPEN = _gauge(
    "streams.{kind}.open", "streams",
    "Streams that have not ended, read or not; a `call` has one when more than its answer comes, a "
    "session has one that is `standalone`.",
)  # fmt: skip
STREAMS_OPENED = _counter("streams.{kind}.opened", "streams", "Streams that were opened.")
STREAMS_REFUSED = _counter(
    "streams.refused.{bound}", "streams",
    "Streams that were not opened, by the bound that was reached: of one `session`, one "
    "`principal`, one `upstream`, or of `all`, or the `share` of one client in the last two. A "
    "call is answered all the same.",
)  # fmt: skip
STREAMS_RESUMED = _counter(
    "streams.resumed", "readers", "Clients that came back and got what followed, the rest of it."
)
STREAMS_GONE = _counter(
    "streams.gone", "readers",
    "Clients that came back too late, or to a stream that is not theirs: 410, or the present "
    "standalone stream.",
)  # fmt: skip
STREAMS_CUT = _counter(
    "streams.cut", "readers", "Clients that were cut off because they read too slowly."
)
STREAMS_CLOSED_EARLY = _counter(
    "streams.closed_early", "readers",
    "Connections that ended before their streams, whose clients were told when to come back.",
)  # fmt: skip
EVENTS_SENT = _counter("streams.events.sent", "events", "Events written to clients.")
EVENTS_REPLAYED = _counter(
    "streams.events.replayed", "events", "Of these, those that a client had missed."
)
EVENTS_LOST = _counter(
    "streams.events.lost", "events", "Events that no client has got, and none can get any more."
)
EVENTS_UNSTORED = _counter(
    "streams.events.unstored", "events",
    "Events that could not be written down, where they are to be: who comes back after a restart "
    "will not get them.",
)  # fmt: skip
RING_BYTES = _gauge(
    "streams.ring_bytes", "bytes", "What is kept of all streams for clients that come back."
)
RINGS_TAKEN = _counter(
    "streams.rings_taken", "streams",
    "Streams that nobody was reading, and that have lost what was kept to make room.",
)  # fmt: skip

# Sessions and limits.
SESSIONS_CREATING = _gauge("sessions.creating", "sessions", "Being written down.")
SESSIONS_LIVE = _gauge("sessions.live", "sessions", "Open.")
SESSIONS_ENDING = _gauge("sessions.ending", "sessions", "Being removed.")
SESSIONS_USES = _gauge("sessions.uses", "uses", "Requests and streams that are within a session.")
LIMITS_BUCKETS = _gauge("limits.buckets", "buckets", "Token buckets in memory.")
LIMITS_SHARED = _counter(
    "limits.shared", "takes", "Takes from a bucket that several keys share, the table being full."
)
LIMITS_TAKEN = _counter(
    "limits.{rule}.taken", "tokens",
    "Drawn from the buckets of a rule; `address` is drawn from ahead, in batches.",
)  # fmt: skip
LIMITS_REFUSED = _counter(
    "limits.{rule}.refused", "requests", "Refused because a bucket of the rule was empty."
)

# The inside: all living actors of a kind together.
ACTORS = _gauge("actor.{kind}.count", "actors", "How many there are.")
ACTOR_MAILBOX = _gauge("actor.{kind}.mailbox", "mails", "Mails waiting, in all boxes together.")
ACTOR_AGE = _gauge("actor.{kind}.mailbox_age", "ms", "How long the oldest mail has waited.")
ACTOR_TURN_MAX = _gauge(
    "actor.{kind}.turn_max", "ms", "The longest that one of them ever took for one mail."
)
ACTOR_HANDLED = _counter("actor.{kind}.handled", "mails", "Handled mails.")
ACTOR_BUSY = _counter(
    "actor.{kind}.busy", "ms",
    "Time spent in handling. Divided by `handled` it is the handling time, by the time passed the "
    "share of the one thread.",
)  # fmt: skip
ACTOR_UNDELIVERED = _counter(
    "actor.{kind}.undelivered", "mails",
    "Refused by a full box, or left in the box of one that ended.",
)  # fmt: skip
ACTOR_RESTARTS = _counter("actor.{kind}.restarts", "restarts", "Starts after a crash.")

# The process.
HUB_LAG = _timer(
    "hub.lag",
    "How late a timer rings that is set ten times a second: how long the thread was busy.",
)
PROCESS_RSS = _gauge("process.rss", "bytes", "Resident memory.")
PROCESS_FDS = _gauge("process.fds", "descriptors", "Open file descriptors.")
PROCESS_THREADS = _gauge("process.threads", "threads", "Threads of the kernel.")
PROCESS_GREENLETS = _gauge("process.greenlets", "greenlets", "Greenlets of actors and data plane.")
PROCESS_CPU = _counter("process.cpu", "ms", "CPU time, user and system.")
PROCESS_GC = _counter(
    "process.gc.{generation}", "collections", "Collections of garbage by generation, 0 to 2."
)
PROCESS_LOG_DROPPED = _counter(
    "process.log_dropped", "records", "Log records left out because their destination was blocked."
)
PACKETS_LOST = _gauge(
    "metrics.packets_lost", "packets",
    "Packets of metrics that the kernel has not taken, all in all: a count could be lost as well.",
)  # fmt: skip

METRICS: tuple[Metric, ...] = tuple(x for x in globals().values() if isinstance(x, Metric))


def rendered(text: str) -> str:
    """Return a text with the table between its marks made anew.

    Raises:
        ValueError: the text has no marks, or several.
    """
    rows = "\n".join(
        f"| `{x.template}` | {x.kind.value} | {x.unit} | {x.meaning} |" for x in METRICS
    )
    table = f"| name | kind | unit | what it tells |\n|---|---|---|---|\n{rows}\n"
    made, count = _MARK.subn(lambda found: f"{found[1]}{table}{found[2]}", text)
    if count != 1:
        raise ValueError(f"there are {count} tables of metrics, not 1")
    return made


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(rendered(file.read_text(encoding="utf-8")), encoding="utf-8")

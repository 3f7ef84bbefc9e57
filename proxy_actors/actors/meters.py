"""What the data plane counts, until the metrics actor takes it.

Owns numbers only, and outlives every actor. A greenlet of the data plane adds one to this and that;
nothing here names, sends or waits. The table of what is counted is `proxy_actors.metrics`.
"""

from __future__ import annotations

from collections import Counter

from proxy_actors import metrics
from proxy_actors.messages.breaker import BreakerState
from proxy_actors.metrics import Metric, Row
from proxy_actors.policy.health import EndpointHealth
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_bounds import StreamKind
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import CLIENT_METHODS
from proxy_actors.world.stores import StreamStore

SAMPLES_MAX = 64
# What stands for a method where there is none that may be part of a name.
OTHER = "_other"
RESPONSE = "_response"
UNREAD = "_unread"
LISTEN = "_listen"
DELETE = "_delete"
_BREAKERS = {
    metrics.BREAKER_OPENED: BreakerState.OPEN,
    metrics.BREAKER_HALF_OPENED: BreakerState.HALF_OPEN,
    metrics.BREAKER_CLOSED: BreakerState.CLOSED,
}
_METHODS = (*CLIENT_METHODS, OTHER, RESPONSE, UNREAD, LISTEN, DELETE)


class Samples:
    """Times that are sent one by one; of many, evenly every second, every fourth, and so on.

    So a flush has a bounded number of them, and the share that was kept is a power of two, by whose
    inverse the receiver counts them without an error of rounding.
    """

    __slots__ = ("_count", "_kept", "_stride")

    def __init__(self) -> None:
        self._kept: list[float] = []
        self._count = 0
        self._stride = 1

    def add(self, seconds: float) -> None:
        """Note one time."""
        count = self._count = self._count + 1
        if count % self._stride:
            return
        self._kept.append(seconds)
        if len(self._kept) > SAMPLES_MAX:
            self._stride *= 2
            self._kept = self._kept[1::2]

    def take(self, metric: Metric, *labels: str) -> list[Row]:
        """Return what was kept since the last time, in milliseconds, and begin anew."""
        times, rate = tuple(seconds * 1000 for seconds in self._kept), 1 / self._stride
        self._kept, self._count, self._stride = [], 0, 1
        return [Row(metric, labels, times, rate)] if times else []


class CallMeter:
    """The requests of one method to one upstream."""

    __slots__ = ("errors", "first_byte", "latency", "queue", "requests", "tool_errors")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.tool_errors = 0
        self.latency = Samples()
        self.queue = Samples()
        self.first_byte = Samples()

    def take(self, *labels: str) -> list[Row]:
        """Return what was counted since the last time, and begin anew."""
        counts = {
            metrics.REQUESTS: self.requests,
            metrics.ERRORS: self.errors,
            metrics.TOOL_ERRORS: self.tool_errors,
        }
        self.requests = self.errors = self.tool_errors = 0
        return [
            *(Row(metric, labels, (count,)) for metric, count in counts.items() if count),
            *self.latency.take(metrics.LATENCY, *labels),
            *self.queue.take(metrics.QUEUE, *labels),
            *self.first_byte.take(metrics.FIRST_BYTE, *labels),
        ]


class EndpointMeter:
    """One endpoint of an upstream, by what its guard knows of it."""

    def __init__(self, known: EndpointHealth) -> None:
        self._known = known
        self._taken: dict[Metric, int] = {}

    def take(self, upstream: str) -> list[Row]:
        """Return how it is, and what was counted since the last time."""
        known, state = self._known, self._known.state
        labels = upstream, state.name
        counts = {
            metrics.ENDPOINT_EJECTIONS: known.ejection.times,
            metrics.CHECKS_WELL: known.checked.well,
            metrics.CHECKS_FAILED: known.checked.failed,
        }
        news = {metric: count - self._taken.get(metric, 0) for metric, count in counts.items()}
        self._taken = counts
        return [
            Row(metrics.ENDPOINT_STATE, labels, (state.takes + state.serves,)),
            Row(metrics.ENDPOINT_ACTIVE, labels, (state.active,)),
            *(Row(metric, labels, (count,)) for metric, count in news.items() if count),
        ]


class UpstreamMeters:
    """One upstream: its methods, endpoints, what went wrong, how long connecting takes."""

    def __init__(self) -> None:
        self._methods = {method: CallMeter() for method in _METHODS}
        self._other = self._methods[OTHER]
        self.errors: Counter[str] = Counter()
        self.connect = Samples()
        self.endpoints: list[EndpointMeter] = []
        self.retries = self.retries_refused = 0
        self.breakers: Counter[BreakerState] = Counter()

    def of(self, method: str) -> CallMeter:
        """Return the meter of a method; all that are not of the specification share one."""
        return self._methods.get(method, self._other)

    def take(self, name: str) -> list[Row]:
        """Return what was counted since the last time, and begin anew."""
        errors, self.errors = self.errors, Counter()
        rows = [row for method, meter in self._methods.items() for row in meter.take(name, method)]
        rows += [Row(metrics.UPSTREAM_ERRORS, (name, why), (n,)) for why, n in errors.items()]
        rows += [row for meter in self.endpoints for row in meter.take(name)]
        counts = {
            metrics.RETRIES: self.retries,
            metrics.RETRIES_REFUSED: self.retries_refused,
            **{metric: self.breakers[state] for metric, state in _BREAKERS.items()},
        }
        self.retries = self.retries_refused = 0
        self.breakers.clear()
        rows += [Row(metric, (name,), (count,)) for metric, count in counts.items() if count]
        return rows + self.connect.take(metrics.CONNECT, name)


def meter_of(meters: UpstreamMeters, message: Message) -> CallMeter:
    """Return where a message of a client is counted."""
    return meters.of(RESPONSE if message.method is None else message.method)


class StreamMeters:
    """The event streams towards clients; each attribute is a metric of the same name.

    `open`, `budget` and `store` are what the streams' directory keeps its books by.
    """

    _COUNTS = {
        "resumed": metrics.STREAMS_RESUMED,
        "gone": metrics.STREAMS_GONE,
        "cut": metrics.STREAMS_CUT,
        "closed_early": metrics.STREAMS_CLOSED_EARLY,
        "sent": metrics.EVENTS_SENT,
        "replayed": metrics.EVENTS_REPLAYED,
        "lost": metrics.EVENTS_LOST,
    }

    def __init__(self) -> None:
        self.resumed = self.gone = self.cut = self.closed_early = 0
        self.sent = self.replayed = self.lost = 0
        self.opened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.open: Counter[StreamKind] = Counter()
        self.budget: RingBudget | None = None
        self.store: StreamStore | None = None

    def take(self) -> list[Row]:
        """Return what was counted since the last time, and begin anew; what is open, as it is."""
        rows = [Row(metrics.STREAMS_OPEN, (kind,), (n,)) for kind, n in self.open.items()]
        counts: dict[tuple[Metric, tuple[str, ...]], int] = {
            (metric, ()): getattr(self, name) for name, metric in self._COUNTS.items()
        }
        counts |= {(metrics.STREAMS_OPENED, (kind,)): n for kind, n in self.opened.items()}
        counts |= {(metrics.STREAMS_REFUSED, (bound,)): n for bound, n in self.refused.items()}
        if self.store is not None:
            counts[metrics.EVENTS_UNSTORED, ()], self.store.lost = self.store.lost, 0
        if self.budget is not None:
            rows.append(Row(metrics.RING_BYTES, (), (self.budget.held,)))
            counts[metrics.RINGS_TAKEN, ()], self.budget.taken = self.budget.taken, 0
        for name in self._COUNTS:
            setattr(self, name, 0)
        self.opened.clear()
        self.refused.clear()
        return rows + [Row(*key, (count,)) for key, count in counts.items() if count]


class Meters:
    """All of one process.

    Attributes:
        answers: the answers to clients by the first digit of their status.
        refused: the requests that were refused, by the rule of rate limits that did.
        lag: how late timers rang.
        streams: the event streams.
    """

    def __init__(self) -> None:
        self._upstreams: dict[str, UpstreamMeters] = {}
        self.answers = [0] * 6
        self.refused: Counter[str] = Counter()
        self.lag = Samples()
        self.streams = StreamMeters()

    def upstream(self, name: str) -> UpstreamMeters:
        """Return the meters of an upstream."""
        return self._upstreams.setdefault(name, UpstreamMeters())

    def take(self) -> list[Row]:
        """Return what was counted since the last time, and begin anew."""
        rows = []
        answers, self.answers[:] = tuple(self.answers), [0] * 6
        for digit, count in enumerate(answers):
            if count:
                rows.append(Row(metrics.HTTP_RESPONSES, (f"{digit}xx",), (count,)))
        for rule, count in self.refused.items():
            rows.append(Row(metrics.LIMITS_REFUSED, (rule,), (count,)))
        self.refused.clear()
        rows += self.lag.take(metrics.HUB_LAG)
        rows += self.streams.take()
        for name, meters in self._upstreams.items():
            rows += meters.take(name)
        return rows

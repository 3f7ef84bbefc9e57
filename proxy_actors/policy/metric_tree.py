"""From what actors tell of themselves to rows of metrics.

Owns what each actor had counted when it was last asked: actors count from their start, and statsd
wants what has come since. An actor is told from its successor by name and incarnation. One that
ends between two flushes takes with it what it has counted since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from proxy_actors import metrics
from proxy_actors.messages.lifecycle import ActorState
from proxy_actors.messages.metrics import ProcessFigures, SeenActor
from proxy_actors.metrics import Metric, Row

T = TypeVar("T")

_Labels = tuple[str, ...]
_Key = tuple[Metric, _Labels]

# By the kind of an actor: gauges and counters that stand in its description. The parent of what
# has a name of its own under an upstream is that upstream.
_GAUGES: dict[str, dict[str, Metric]] = {
    "HttpServer": {"connections": metrics.HTTP_CONNECTIONS, "waiting": metrics.HTTP_GATED},
    "HttpUpstream": {"reached": metrics.UPSTREAM_READY},
    "StdioUpstream": {"ready": metrics.UPSTREAM_READY},
    "StdioShared": {"ready": metrics.UPSTREAM_READY},
    "ConnectionPool": {
        "opening": metrics.POOL_OPENING,
        "idle": metrics.POOL_IDLE,
        "leased": metrics.POOL_LEASED,
        "streaming": metrics.POOL_STREAMING,
        "waiting": metrics.POOL_WAITING,
        "limit": metrics.POOL_LIMIT,
    },
    "SessionRegistry": {
        "creating": metrics.SESSIONS_CREATING,
        "live": metrics.SESSIONS_LIVE,
        "ending": metrics.SESSIONS_ENDING,
        "uses": metrics.SESSIONS_USES,
    },
    "Limiter": {"buckets": metrics.LIMITS_BUCKETS},
}
_CHILDREN = {
    "started": metrics.STDIO_STARTED,
    "crashed": metrics.STDIO_CRASHED,
    "restarted": metrics.STDIO_RESTARTED,
}
_COUNTERS: dict[str, dict[str, Metric]] = {
    "StdioUpstream": _CHILDREN,
    "StdioShared": _CHILDREN,
    "HttpServer": {"paused": metrics.HTTP_PAUSED, "refused": metrics.HTTP_REFUSED},
    "ConnectionPool": {"shed": metrics.POOL_SHED},
    "Limiter": {"shared": metrics.LIMITS_SHARED},
}
# The kinds of which more is told than of every actor.
_DETAILED = frozenset({*_GAUGES, *_COUNTERS, "EventStream", "StdioProcess"})


class _Kind:
    """All living actors of one kind together."""

    __slots__ = (
        "age_s", "busy_s", "count", "handled", "mails", "restarts", "turn_s", "undelivered",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = self.mails = self.handled = self.undelivered = self.restarts = 0
        self.age_s = self.busy_s = self.turn_s = 0.0

    def add(self, state: ActorState, before: ActorState | None) -> None:
        """Add one actor, of what it has counted only what has come since."""
        self.count += 1
        self.mails += state.mailbox_depth
        self.age_s = max(self.age_s, state.mailbox_age_s)
        self.turn_s = max(self.turn_s, state.turn_s_max)
        if before is None:
            self.handled += state.handled
            self.busy_s += state.busy_s
            self.undelivered += state.undelivered
        else:  # the question of the last flush was a mail as well
            self.handled += state.handled - before.handled - 1
            self.busy_s += state.busy_s - before.busy_s
            self.undelivered += state.undelivered - before.undelivered

    def gauges(self) -> Iterator[tuple[Metric, float]]:
        yield metrics.ACTORS, self.count
        yield metrics.ACTOR_MAILBOX, self.mails
        yield metrics.ACTOR_AGE, self.age_s * 1000
        yield metrics.ACTOR_TURN_MAX, self.turn_s * 1000

    def counters(self) -> Iterator[tuple[Metric, float]]:
        yield metrics.ACTOR_HANDLED, self.handled
        yield metrics.ACTOR_BUSY, self.busy_s * 1000
        yield metrics.ACTOR_UNDELIVERED, self.undelivered
        yield metrics.ACTOR_RESTARTS, self.restarts


class TreeRows:
    """Makes rows for one incarnation of the metrics actor.

    Args:
        first: whether everything has been counted from nothing since the process started. Else
            what the actors tell at first is where counting begins.
    """

    def __init__(self, first: bool) -> None:
        self._known = first
        self._gauged: dict[_Key, float] = {}
        self._seen: dict[str, SeenActor] = {}
        self._process: ProcessFigures | None = None
        self._begin()

    def add(self, actors: Iterable[SeenActor]) -> None:
        """Take in what a part of the actors have told, each of them once before the next `rows`."""
        for seen in actors:
            state = seen.state
            before = self._before(seen)
            kind = self._kinds.get(state.kind)
            if kind is None:
                kind = self._kinds[state.kind] = _Kind()
            kind.add(state, before)
            kind.restarts += self._restarts(seen)
            self._seen_now[state.name] = seen
            if state.kind in _DETAILED:
                _add(self._gauges, _gauges(state))
                if state.kind in _COUNTERS:
                    _add(self._counts, self._since(_counters, state, before))

    def rows(self, complete: bool, process: ProcessFigures, greenlets: int) -> list[Row]:
        """Make the rows of one flush, and begin the next.

        Args:
            complete: whether all actors were added that live and have not only just started.
        """
        _add(self._gauges, _gauges_of_process(process, greenlets))
        _add(self._counts, self._since(_counters_of_process, process, self._process))
        for name, kind in self._kinds.items():
            _add(self._gauges, {(metric, (name,)): value for metric, value in kind.gauges()})
            _add(self._counts, {(metric, (name,)): value for metric, value in kind.counters()})
        # Statsd keeps a gauge until it is told another: what is no more is told as 0.
        self._gauged = {**dict.fromkeys(self._gauged, 0.0), **self._gauges}
        rows = [Row(*key, (value,)) for key, value in self._gauged.items()]
        rows += [Row(*key, (value,)) for key, value in self._counts.items() if value > 0]
        # Who was not asked may be there still: what it had counted is kept.
        self._seen = self._seen_now if complete else {**self._seen, **self._seen_now}
        self._process, self._known = process, True
        self._begin()
        return rows

    def _begin(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._gauges: dict[_Key, float] = {}
        self._counts: dict[_Key, float] = {}
        self._seen_now: dict[str, SeenActor] = {}

    def _before(self, seen: SeenActor) -> ActorState | None:
        """Return what an actor has told before; None when it has counted from nothing since."""
        before = self._seen.get(seen.state.name)
        if before is not None and before.incarnation == seen.incarnation:
            return before.state
        if self._known:
            return None
        return msgspec.structs.replace(seen.state, handled=seen.state.handled - 1)

    def _since(
        self, count: Callable[[T], dict[_Key, float]], present: T, before: T | None
    ) -> dict[_Key, float]:
        """Return what has come since; at first, all or nothing."""
        if before is None:
            return count(present) if self._known else {}
        counted = count(before)
        return {key: value - counted.get(key, 0.0) for key, value in count(present).items()}

    def _restarts(self, seen: SeenActor) -> int:
        before = self._seen.get(seen.state.name)
        if before is None:
            return seen.incarnation - 1 if self._known else 0
        return max(seen.incarnation - before.incarnation, 0)


def _add(sums: dict[_Key, float], values: Mapping[_Key, float]) -> None:
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value


def _gauges(state: ActorState) -> dict[_Key, float]:
    upstream = _upstream_of(state.name)
    match state.kind:
        case "EventStream":
            return {(metrics.STREAMS, upstream): 1}
        case "StdioProcess":
            runs = state.detail.get("running") is True
            return {
                (metrics.STDIO_RUNNING, upstream): runs,
                (metrics.STDIO_STARTING, upstream): not runs,
            }
    return _told(_GAUGES.get(state.kind, {}), state, upstream)


def _counters(state: ActorState) -> dict[_Key, float]:
    counters = _told(_COUNTERS.get(state.kind, {}), state, _upstream_of(state.name))
    if state.kind == "Limiter":
        taken: Any = state.detail.get("taken", {})  # Any: a description is told as objects
        for rule, tokens in taken.items():
            counters[metrics.LIMITS_TAKEN, (rule,)] = tokens
    return counters


def _told(table: Mapping[str, Metric], state: ActorState, upstream: _Labels) -> dict[_Key, float]:
    return {
        (metric, upstream if metric.labels else ()): _number(state.detail, name)
        for name, metric in table.items()
    }


def _gauges_of_process(process: ProcessFigures, greenlets: int) -> dict[_Key, float]:
    return {
        (metrics.PROCESS_RSS, ()): process.rss_bytes,
        (metrics.PROCESS_FDS, ()): process.fds,
        (metrics.PROCESS_THREADS, ()): process.threads,
        (metrics.PROCESS_GREENLETS, ()): greenlets,
    }


def _counters_of_process(process: ProcessFigures) -> dict[_Key, float]:
    return {
        (metrics.PROCESS_CPU, ()): process.cpu_s * 1000,
        (metrics.PROCESS_LOG_DROPPED, ()): process.log_dropped,
        **{(metrics.PROCESS_GC, (str(n),)): times for n, times in enumerate(process.gc)},
    }


def _upstream_of(name: str) -> _Labels:
    """Return the upstream that an actor belongs to: they are named upstream/NAME/..."""
    parts = name.split("/", 2)
    return (parts[1],) if parts[0] == "upstream" and len(parts) > 1 else ("_",)


def _number(detail: Mapping[str, object], name: str) -> float:
    value = detail.get(name)
    return value if isinstance(value, (int, float)) else 0.0

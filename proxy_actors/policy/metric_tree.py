"""From what actors tell of themselves to rows of metrics.

Owns what each actor had counted when it was last asked: actors count from their start, and statsd
wants what has come since. An actor is told from its successor by name and incarnation. One that
ends between two flushes takes with it what it has counted since the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from proxy_actors import metrics
from proxy_actors.messages.lifecycle import ActorState
from proxy_actors.messages.metrics import ProcessFigures, TreeDescribed
from proxy_actors.metrics import Metric, Row

_Labels = tuple[str, ...]
_Key = tuple[Metric, _Labels]

# By the kind of an actor: gauges and counters that stand in its description. The parent of what
# has a name of its own under an upstream is that upstream.
_GAUGES: dict[str, dict[str, Metric]] = {
    "HttpServer": {"connections": metrics.HTTP_CONNECTIONS},
    "HttpUpstream": {"reached": metrics.UPSTREAM_READY},
    "StdioUpstream": {"ready": metrics.UPSTREAM_READY},
    "StdioShared": {"ready": metrics.UPSTREAM_READY},
    "ConnectionPool": {
        "opening": metrics.POOL_OPENING,
        "idle": metrics.POOL_IDLE,
        "leased": metrics.POOL_LEASED,
        "streaming": metrics.POOL_STREAMING,
        "waiting": metrics.POOL_WAITING,
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
    "Limiter": {"shared": metrics.LIMITS_SHARED},
}


class TreeRows:
    """Makes rows for one incarnation of the metrics actor.

    Args:
        first: whether everything has been counted from nothing since the process started. Else
            what the actors tell at first is where counting begins.
    """

    def __init__(self, first: bool) -> None:
        self._known = first
        self._gauged: dict[_Key, float] = {}
        self._counted: dict[tuple[str, int], Mapping[_Key, float]] = {}
        self._incarnations: dict[str, int] = {}
        self._process: Mapping[_Key, float] = {}

    def rows(
        self, told: TreeDescribed, process: ProcessFigures, greenlets: int
    ) -> list[Row]:
        """Make the rows of one flush."""
        gauges: Counter[_Key] = Counter()
        counts: Counter[_Key] = Counter()
        worst: dict[_Key, float] = {}
        # Who was not asked may be there still: what it had counted is kept.
        counted = {} if told.complete else dict(self._counted)
        incarnations = {} if told.complete else dict(self._incarnations)
        for seen in told.actors:
            state = seen.state
            gauges.update(dict(_gauges(state)))
            for key, value in _extremes(state):
                worst[key] = max(worst.get(key, 0.0), value)
            present = dict(_counters(state))
            before = self._counted.get((state.name, seen.incarnation))
            counts.update(self._since(before, present))
            if before is not None:  # the question of the last flush was a mail as well
                counts[metrics.ACTOR_HANDLED, (state.kind,)] -= 1
            counted[state.name, seen.incarnation] = present
            restarts = (metrics.ACTOR_RESTARTS, (state.kind,))
            counts[restarts] += self._restarts(state.name, seen.incarnation)
            incarnations[state.name] = seen.incarnation
        self._counted, self._incarnations = counted, incarnations
        gauges.update(dict(_gauges_of_process(process, greenlets)))
        present = dict(_counters_of_process(process))
        counts.update(self._since(self._process or None, present))
        self._process, self._known = present, True
        # Statsd keeps a gauge until it is told another: what is no more is told as 0.
        self._gauged = {**dict.fromkeys(self._gauged, 0.0), **gauges, **worst}
        rows = [Row(*key, (value,)) for key, value in self._gauged.items()]
        rows += [Row(*key, (value,)) for key, value in counts.items() if value > 0]
        return rows

    def _since(
        self, before: Mapping[_Key, float] | None, present: Mapping[_Key, float]
    ) -> dict[_Key, float]:
        """Return what has come since; a new actor has counted from nothing."""
        if before is None:
            before = {} if self._known else present
        return {key: value - before.get(key, 0.0) for key, value in present.items()}

    def _restarts(self, name: str, incarnation: int) -> int:
        before = self._incarnations.get(name, 1 if self._known else incarnation)
        return max(incarnation - before, 0)


def _gauges(state: ActorState) -> Iterator[tuple[_Key, float]]:
    yield (metrics.ACTORS, (state.kind,)), 1
    yield (metrics.ACTOR_MAILBOX, (state.kind,)), state.mailbox_depth
    upstream = _upstream_of(state.name)
    for name, metric in _GAUGES.get(state.kind, {}).items():
        yield (metric, upstream if metric.labels else ()), _number(state.detail, name)
    match state.kind:
        case "EventStream":
            yield (metrics.STREAMS, upstream), 1
        case "StdioProcess":
            runs = state.detail.get("running") is True
            yield (metrics.STDIO_RUNNING, upstream), runs
            yield (metrics.STDIO_STARTING, upstream), not runs


def _extremes(state: ActorState) -> Iterator[tuple[_Key, float]]:
    yield (metrics.ACTOR_AGE, (state.kind,)), state.mailbox_age_s * 1000
    yield (metrics.ACTOR_TURN_MAX, (state.kind,)), state.turn_s_max * 1000


def _counters(state: ActorState) -> Iterator[tuple[_Key, float]]:
    yield (metrics.ACTOR_HANDLED, (state.kind,)), state.handled
    yield (metrics.ACTOR_BUSY, (state.kind,)), state.busy_s * 1000
    yield (metrics.ACTOR_UNDELIVERED, (state.kind,)), state.undelivered
    upstream = _upstream_of(state.name)
    for name, metric in _COUNTERS.get(state.kind, {}).items():
        yield (metric, upstream if metric.labels else ()), _number(state.detail, name)
    if state.kind == "Limiter":
        taken: Any = state.detail.get("taken", {})  # Any: a description is told as objects
        for rule, tokens in taken.items():
            yield (metrics.LIMITS_TAKEN, (rule,)), tokens


def _gauges_of_process(process: ProcessFigures, greenlets: int) -> Iterator[tuple[_Key, float]]:
    yield (metrics.PROCESS_RSS, ()), process.rss_bytes
    yield (metrics.PROCESS_FDS, ()), process.fds
    yield (metrics.PROCESS_THREADS, ()), process.threads
    yield (metrics.PROCESS_GREENLETS, ()), greenlets


def _counters_of_process(process: ProcessFigures) -> Iterator[tuple[_Key, float]]:
    yield (metrics.PROCESS_CPU, ()), process.cpu_s * 1000
    yield (metrics.PROCESS_LOG_DROPPED, ()), process.log_dropped
    for generation, collections in enumerate(process.gc):
        yield (metrics.PROCESS_GC, (str(generation),)), collections


def _upstream_of(name: str) -> _Labels:
    """Return the upstream that an actor belongs to: they are named upstream/NAME/..."""
    parts = name.split("/")
    return (parts[1],) if parts[0] == "upstream" and len(parts) > 1 else ("_",)


def _number(detail: Mapping[str, object], name: str) -> float:
    value = detail.get(name)
    return value if isinstance(value, (int, float)) else 0.0

"""Who may send a request now: token buckets, taken from all together or not at all.

Owns the level of every bucket. A bucket that is full is not kept: it is the same as one that was
never used. So the table holds those only that were drawn from lately, and `buckets_max` bounds it.
When it is full of buckets that are not, keys that are not in it share one bucket of their rule:
whoever invents keys to get new buckets then draws from the same one, and nobody's level is
forgotten. `actors/limiter.py` is the shell; `gateway/limits.py` knows which buckets a request has.

In any time t no bucket grants more than burst + rate * t.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import assert_never

import msgspec

from proxy_actors.messages import limiter as m
from proxy_actors.messages.limiter import Bucket, LimiterEffect, LimiterMessage

SWEEP_INTERVAL_S = 10.0
# A full table is looked through no more often, or new keys would cost a look each.
LOOK_INTERVAL_S = 1.0
OTHERS = "_others"


class LimiterGauges(msgspec.Struct, frozen=True):
    """The table in figures. `shared` counts the takes from buckets that several keys share,
    `taken` the tokens by rule.
    """

    buckets: int
    granted: int
    limited: int
    shared: int
    taken: dict[str, int]


class _Level:
    """What a bucket held at a time, in tokens and seconds."""

    __slots__ = ("at_s", "burst", "rate", "tokens")

    def __init__(self, bucket: Bucket, now_s: float) -> None:
        self.tokens = float(bucket.burst)
        self.at_s = now_s
        self.rate = bucket.rate
        self.burst = bucket.burst

    def fill(self, now_s: float) -> None:
        """Let flow in what has come since."""
        self.tokens = min(self.tokens + (now_s - self.at_s) * self.rate, float(self.burst))
        self.at_s = now_s


class LimiterPolicy:
    """Decides for all rules of one process.

    Args:
        buckets_max: buckets that are kept, at least 1.
    """

    def __init__(self, buckets_max: int) -> None:
        self._buckets_max = buckets_max
        self._levels: dict[tuple[str, str], _Level] = {}
        self._generation = 0
        self._armed = False
        self._looked_s = -math.inf
        self._granted = self._limited = self._shared = 0
        self._taken: Counter[str] = Counter()

    def handle(self, message: LimiterMessage, now_s: float) -> list[LimiterEffect]:
        """Apply one message and return what is to be done; a Take is answered by the first."""
        match message:
            case m.Take(buckets, tokens):
                return self._take(buckets, tokens, now_s)
            case m.BucketSweepDue(generation):
                return self._sweep(now_s) if generation == self._generation else []
            case _:
                assert_never(message)

    def gauges(self) -> LimiterGauges:
        """Return the table in figures."""
        return LimiterGauges(
            len(self._levels), self._granted, self._limited, self._shared, dict(self._taken)
        )

    def _take(
        self, buckets: tuple[Bucket, ...], tokens: int, now_s: float
    ) -> list[LimiterEffect]:
        levels = [self._level(bucket, now_s) for bucket in buckets]
        wanted: dict[int, int] = {}
        for level in levels:  # two buckets may be one: the shared one, or the same named twice
            wanted[id(level)] = wanted.get(id(level), 0) + tokens
        late = [
            (_wait_s(level, wanted[id(level)]), bucket, level)
            for bucket, level in zip(buckets, levels)
            if level.tokens < wanted[id(level)]
        ]
        if late:
            self._limited += 1
            after_s, bucket, level = max(late, key=lambda row: row[0])
            return [m.Limited(bucket, math.floor(level.tokens), after_s), *self._arm()]
        self._granted += 1
        for level in levels:
            level.tokens -= tokens
        for bucket in buckets:
            self._taken[bucket.rule] += tokens
        return [m.Granted(), *self._arm()]

    def _level(self, bucket: Bucket, now_s: float) -> _Level:
        """Find a bucket's level, filled up to now."""
        key = (bucket.rule, bucket.key)
        level = self._levels.get(key)
        if level is None and not self._has_room(now_s):
            self._shared += 1
            key = (bucket.rule, OTHERS)
            level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = _Level(bucket, now_s)
        if (level.rate, level.burst) != (bucket.rate, bucket.burst):
            level.fill(now_s)  # at the old rate; the principal has changed its tier
            level.rate, level.burst = bucket.rate, bucket.burst
        level.fill(now_s)
        return level

    def _has_room(self, now_s: float) -> bool:
        if len(self._levels) >= self._buckets_max and now_s >= self._looked_s + LOOK_INTERVAL_S:
            self._looked_s = now_s
            self._forget_full(now_s)
        return len(self._levels) < self._buckets_max

    def _forget_full(self, now_s: float) -> None:
        for key, level in list(self._levels.items()):
            level.fill(now_s)
            if level.tokens >= level.burst:
                del self._levels[key]

    def _sweep(self, now_s: float) -> list[LimiterEffect]:
        self._armed = False
        self._forget_full(now_s)
        return self._arm()

    def _arm(self) -> list[LimiterEffect]:
        if self._armed or not self._levels:
            return []
        self._armed = True
        self._generation += 1
        return [m.Wake(SWEEP_INTERVAL_S, self._generation)]


def _wait_s(level: _Level, tokens: int) -> float:
    if tokens > level.burst:
        return math.inf
    return (tokens - level.tokens) / level.rate

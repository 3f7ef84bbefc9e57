"""The rate limiter's policy beside a model that keeps the history of every bucket.

The model knows the one rule of a token bucket and no levels: in any time t that ends now, a bucket
has granted no more than burst + rate * t. A take is to be granted exactly if no bucket breaks that
rule by it; where keys share a bucket, the shared one counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any

import msgspec

from proxy_actors.messages import limiter as m
from proxy_actors.messages.limiter import Bucket
from proxy_actors.policy.limiter import LimiterPolicy
from tests.policy.search import Subject, check

RULES = {"slow": (0.05, 1), "fast": (1.0, 2)}
KEYS = ("a", "b")
TIME_S_MAX = 12.0


class Move(msgspec.Struct, frozen=True):
    """Take so many tokens, or let so many seconds pass."""

    names: tuple[tuple[str, str], ...] = ()
    tokens: int = 1
    pass_s: float = 0.0


class LimiterSubject(Subject):
    """The policy with its model. `bound` is how many buckets there may be."""

    def __init__(self, bound: int, keys: tuple[str, ...] = KEYS) -> None:
        self.policy = LimiterPolicy(bound)
        self.bound = bound
        self.keys = keys
        self.now_s = 0.0
        self.history: dict[tuple[str, str], list[tuple[float, int]]] = {}
        self.wakes: list[tuple[float, int]] = []

    def moves(self) -> Iterable[Move]:
        if self.now_s >= TIME_S_MAX:
            return
        names = [(rule, key) for rule in RULES for key in self.keys]
        yield from (Move((name,)) for name in names)
        yield Move((("slow", "a"), ("fast", "a")))
        yield Move((("fast", "a"),), tokens=2)
        yield Move((("slow", "b"), ("fast", "a"), ("slow", "b")))
        yield Move((("fast", "b"), ("slow", "b")))
        yield Move(pass_s=1.0 if self.now_s < 2.0 else 9.0)

    def make(self, move: Move) -> None:
        if move.pass_s:
            self.now_s += move.pass_s
            self._wake()
            return
        buckets = tuple(Bucket(rule, key, *RULES[rule]) for rule, key in move.names)
        answer, *rest = self.policy.handle(m.Take(buckets, move.tokens), self.now_s)
        self._note(rest)
        wanted: dict[tuple[str, str], int] = {}
        for bucket in buckets:
            name = (bucket.rule, bucket.key)
            wanted[name] = wanted.get(name, 0) + move.tokens
        fits = all(self._free(name) >= tokens for name, tokens in wanted.items())
        if isinstance(answer, m.Granted):
            check(fits, "a bucket granted more than burst + rate * t")
            for name, tokens in wanted.items():
                self.history.setdefault(name, []).append((self.now_s, tokens))
        else:
            check(isinstance(answer, m.Limited), "a take was not answered")
            check(not fits, "a take was refused that every bucket had tokens for")
            self._check_refusal(answer, wanted)

    def key(self) -> Hashable:
        levels = tuple(
            (name, round(self._free(name), 6)) for name in sorted(self.history)
        )
        return (self.now_s, levels)

    def settle(self) -> None:
        check(self.policy.gauges().buckets <= self.bound + len(RULES), "too many buckets")
        self.now_s += 1000.0
        for rule, (rate, burst) in RULES.items():
            for key in self.keys:
                bucket = Bucket(rule, key, rate, burst)
                answer = self.policy.handle(m.Take((bucket,), burst), self.now_s)[0]
                check(isinstance(answer, m.Granted), "a bucket did not fill up")

    def _check_refusal(self, limited: Any, wanted: dict[tuple[str, str], int]) -> None:
        waits = {
            name: (tokens - self._free(name)) / RULES[name[0]][0]
            if tokens <= RULES[name[0]][1] else math.inf
            for name, tokens in wanted.items()
        }
        late_s = max(waits.values())
        check(
            math.isclose(limited.after_s, late_s), f"told to wait {limited.after_s}, not {late_s}"
        )
        name = (limited.bucket.rule, limited.bucket.key)
        check(math.isclose(waits[name], late_s), "another bucket was named than the last")
        check(limited.remaining == math.floor(self._free(name) + 1e-9), "wrong remaining")

    def _free(self, name: tuple[str, str]) -> float:
        """How many tokens the rule leaves a bucket now, from what it has granted before."""
        rate, burst = RULES[name[0]]
        free = float(burst)
        granted = 0
        for at_s, tokens in reversed(self.history.get(name, [])):
            granted += tokens
            free = min(free, burst + rate * (self.now_s - at_s) - granted)
        return free

    def _note(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            check(isinstance(effect, m.Wake), f"unexpected {effect}")
            check(not self.wakes, "two sweeps are under way")
            self.wakes.append((self.now_s + effect.after_s, effect.generation))

    def _wake(self) -> None:
        while self.wakes and self.wakes[0][0] <= self.now_s:
            _, generation = self.wakes.pop(0)
            self._note(self.policy.handle(m.BucketSweepDue(generation), self.now_s))

"""Which endpoint of an upstream gets a new session, or a call that is bound to none.

Owns the order of the choice: endpoints that take sessions, the backups only where no other does;
and, when too many are out of service for the rest to carry the load, all of them, as Envoy's panic
threshold has it. How one is chosen among them is a `Chooser`. Each is as its name says elsewhere:
round robin with nginx's smooth weights, least pending as Envoy's least request over all, two random
choices by peak EWMA as Finagle's, rendezvous hashing with weights.

An endpoint that takes sessions again after it did not is given few at first (`slow_start_s`, the
ramp as Envoy's).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

import msgspec

from proxy_actors.options import Balance
from proxy_actors.policy.endpoint_state import EndpointState

# Where a slow start begins.
WEIGHT_SHARE_MIN = 0.1
# What is not known yet counts as this while a call is out, so that only one call finds it out.
UNKNOWN_LOAD = 1e9


class BalanceLimits(msgspec.Struct, frozen=True):
    """How sessions are spread.

    Attributes:
        slow_start_s: how long the ramp of an endpoint takes that takes sessions again; 0: none.
        panic_percent: with fewer than this of the endpoints in service, all are used; 0: never.
    """

    slow_start_s: float = 0.0
    panic_percent: float = 50.0


Weighed = Sequence[tuple[EndpointState, float]]
"""Endpoints, at least one, and what each weighs now."""


class Chooser(ABC):
    """A way to choose."""

    @abstractmethod
    def choose(self, weighed: Weighed, key: str, now_s: float) -> EndpointState:
        """Choose one."""


class RoundRobin(Chooser):
    """One after the other, the heavier ones more often, and spread evenly (nginx)."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, weighed: Weighed, key: str, now_s: float) -> EndpointState:
        """Give each its weight as credit, and take the richest, who pays for all."""
        for endpoint, weight in weighed:
            self._credit[endpoint.name] = self._credit.get(endpoint.name, 0.0) + weight
        chosen, _ = max(weighed, key=lambda each: self._credit[each[0].name])
        self._credit[chosen.name] -= sum(weight for _, weight in weighed)
        return chosen


class LeastPending(Chooser):
    """The one with the fewest calls in flight for its weight, the first of equals in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, weighed: Weighed, key: str, now_s: float) -> EndpointState:
        """Look at all: upstreams have few endpoints."""
        self._turn += 1
        first = self._turn % len(weighed)
        turned = [*weighed[first:], *weighed[:first]]
        return min(turned, key=lambda each: (each[0].active + 1) / each[1])[0]


class TwoChoices(Chooser):
    """Of two different ones, drawn by chance, the one that has less to do (P2C, peak EWMA).

    Args:
        random: returns a number from 0 to below 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def choose(self, weighed: Weighed, key: str, now_s: float) -> EndpointState:
        """Draw two; the first wins where they are equal."""
        if len(weighed) == 1:
            return weighed[0][0]
        first = int(self._random() * len(weighed))
        second = int(self._random() * (len(weighed) - 1))
        second += second >= first
        pair = weighed[first], weighed[second]
        return min(pair, key=lambda each: load_of(each[0], now_s) / each[1])[0]


class Rendezvous(Chooser):
    """The one whose hash with the key is the highest: each keeps its keys, whoever comes or goes.

    With weights as Schindelhauer and Schomaker's logarithmic method.
    """

    def choose(self, weighed: Weighed, key: str, now_s: float) -> EndpointState:
        """Hash each with the key."""
        def score(each: tuple[EndpointState, float]) -> float:
            endpoint, weight = each
            digest = hashlib.blake2b(f"{endpoint.name}\0{key}".encode(), digest_size=8).digest()
            drawn = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
            return -weight / math.log(drawn)

        return max(weighed, key=score)[0]


class Balancer:
    """Chooses among the endpoints of one upstream.

    Args:
        endpoints: all of them, in the order of the configuration.
        chooser: how one is chosen.
    """

    def __init__(
        self,
        endpoints: Sequence[EndpointState],
        chooser: Chooser,
        limits: BalanceLimits = BalanceLimits(),
    ) -> None:
        self._primary = [endpoint for endpoint in endpoints if not endpoint.backup]
        self._backup = [endpoint for endpoint in endpoints if endpoint.backup]
        self._chooser = chooser
        self._limits = limits

    def choose(
        self, key: str, now_s: float, tried: Collection[str] = ()
    ) -> EndpointState | None:
        """Choose an endpoint; None where none can be used.

        Args:
            key: what a hash is made of.
            tried: the names of those that have just failed; one of them only for want of others.
        """
        usable = self.usable()
        if not usable:
            return None
        others = [endpoint for endpoint in usable if endpoint.name not in tried]
        weighed = [(endpoint, self.weight_of(endpoint, now_s)) for endpoint in others or usable]
        return self._chooser.choose(weighed, key, now_s)

    def usable(self) -> list[EndpointState]:
        """List those among which is chosen."""
        wanted = [endpoint for endpoint in self._primary if not endpoint.drained]
        taking = [endpoint for endpoint in wanted if endpoint.takes]
        if self._in_panic(len(taking), len(wanted)):
            return [endpoint for endpoint in wanted if endpoint.serves]
        return taking or [endpoint for endpoint in self._backup if endpoint.takes]

    def weight_of(self, endpoint: EndpointState, now_s: float) -> float:
        """Return what an endpoint weighs now: less than its weight in its slow start."""
        window_s, since_s = self._limits.slow_start_s, endpoint.taken_up_s
        if window_s <= 0 or since_s is None:
            return float(endpoint.weight)
        share = max(min((now_s - since_s) / window_s, 1.0), WEIGHT_SHARE_MIN)
        return endpoint.weight * share

    def _in_panic(self, taking: int, wanted: int) -> bool:
        """Whether so few take sessions that the others must help; backups come first.

        Those that the operator has taken out are not among them.
        """
        if any(endpoint.takes for endpoint in self._backup):
            return False
        return taking * 100.0 < self._limits.panic_percent * wanted


def load_of(endpoint: EndpointState, now_s: float) -> float:
    """Return how much an endpoint has to do: what it takes for a call, times those in flight."""
    latency, active = endpoint.latency, endpoint.active
    if latency is None:
        return active + 1.0
    if not latency.known:
        return UNKNOWN_LOAD + active if active else 0.0
    return latency.value_s(now_s) * (active + 1)


def chooser_of(balance: Balance, random: Callable[[], float]) -> Chooser:
    """Make the chooser of a configured way."""
    match balance:
        case Balance.ROUND_ROBIN:
            return RoundRobin()
        case Balance.LEAST_PENDING:
            return LeastPending()
        case Balance.TWO_CHOICES:
            return TwoChoices(random)
        case Balance.HASH:
            return Rendezvous()

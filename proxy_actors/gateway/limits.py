"""Which buckets a request draws from, and what it is told when they are empty.

Owns the rules of the configuration, and nothing of a bucket: those are the limiter's. Responses,
notifications, cancellations and DELETE are never limited: refusing them frees nothing, and leaves a
server waiting. A client that is refused its `initialize` is told 503, since clients take other
statuses for a server of another revision (MCP-P-2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from proxy_actors.actors.refs import Slot
from proxy_actors.errors import FailedError, Reason, Side
from proxy_actors.messages.limiter import Bucket, Limited, Take
from proxy_actors.protocol.headers import Fields, first
from proxy_actors.protocol.jsonrpc import REQUEST, Message
from proxy_actors.protocol.revisions import INITIALIZE

if TYPE_CHECKING:
    from proxy_actors.gateway.exchange import Exchange
    from proxy_actors.gateway.keys import Keyring

TAKE_S_MAX = 1.0
ADDRESS_RULE = "address"
INITIALIZE_RULE = "initialize"
FAILURES_RULE = "key-failures"
# A bucket that holds thousands is drawn from for several requests at once: so many at the most.
BATCH_MAX = 32
BATCH_SHARE = 1000
# How long a batch may be spent: what a busy connection takes is not kept by an idle one.
BATCH_S_MAX = 1.0
_KEY_BYTES_MAX = 128


class LimitKey(StrEnum):
    """What has a bucket of its own under a rule."""

    PRINCIPAL = "principal"
    ADDRESS = "address"
    SESSION = "session"
    HEADER = "header"
    ALL = "all"


class Rate(msgspec.Struct, frozen=True):
    """Tokens a second that flow into a bucket, and what it holds."""

    rate: float
    burst: int


class Rule(msgspec.Struct, frozen=True):
    """A limit on requests to `upstream`, of `method`, to `tool`, where each is not empty.

    `tiers` are the rates of the principals of a tier; others have `rate`.
    """

    name: str
    key: LimitKey
    rate: Rate
    header: bytes = b""
    upstream: str = ""
    method: str = ""
    tool: str = ""
    tiers: Mapping[str, Rate] = {}

    def concerns(self, upstream: str, method: str | None, tool: str | None) -> bool:
        """Whether a request is one that this rule counts."""
        return (
            self.upstream in ("", upstream)
            and self.method in ("", method)
            and self.tool in ("", tool)
        )


class Limits:
    """The limits of one process.

    Args:
        limiter: the actor that holds the buckets.
        address: what one address may send, whatever it is.
        initialize: how many sessions one principal may open.
        rules: the operator's.
        x_ratelimit: whether refusals carry the X-RateLimit fields too.
        refused: where refusals are counted by rule.
    """

    def __init__(
        self,
        limiter: Slot,
        address: Rate,
        initialize: Rate,
        rules: Sequence[Rule] = (),
        x_ratelimit: bool = False,
        refused: Counter[str] | None = None,
    ) -> None:
        self.limiter = limiter
        self.address = address
        self.batch = max(1, min(address.burst // BATCH_SHARE, BATCH_MAX))
        self._initialize = initialize
        self._rules = rules
        self._reads_tools = any(rule.tool for rule in rules)
        self._x_ratelimit = x_ratelimit
        self._refused: Counter[str] = Counter() if refused is None else refused

    def take(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        """Draw for every request of the exchange, from all buckets that concern it, or refuse.

        Args:
            clock: `World.now_s`.

        Raises:
            FailedError: rate-limited; nothing was drawn.
        """
        if not self._rules and not exchange.opens_session:
            return
        requests = [x for x in exchange.messages if x.kind is REQUEST]
        buckets = [bucket for x in requests for bucket in self._buckets(exchange, x)]
        if buckets:
            limited = self.limiter.ask(Take(tuple(buckets)), clock() + TAKE_S_MAX)
            if isinstance(limited, Limited):
                raise self.refusal(limited, exchange)

    def take_failure(
        self, exchange: Exchange, keyring: Keyring, now_s: float
    ) -> FailedError | None:
        """Count a request with a wrong key against its address; the refusal if it has too many."""
        if not keyring.shows_key(exchange.accepted.head.fields):
            return None
        rate = keyring.failures
        bucket = Bucket(FAILURES_RULE, exchange.client.peer, rate.rate, rate.burst)
        answer = self.limiter.ask(Take((bucket,)), now_s + TAKE_S_MAX)
        return self.refusal(answer, exchange) if isinstance(answer, Limited) else None

    def refusal(self, limited: Limited, exchange: Exchange) -> FailedError:
        """Count a request that was not granted, and make its error."""
        self._refused[limited.bucket.rule] += 1
        after_s = max(limited.after_s, 0.001)
        return FailedError(
            Reason.RATE_LIMITED,
            "too many requests",
            status=503 if exchange.opens_session else None,
            side=Side.CLIENT,
            retry_after_s=after_s if after_s < math.inf else None,
            headers=self._fields(limited, after_s),
        )

    def _buckets(self, exchange: Exchange, message: Message) -> list[Bucket]:
        if message.method == INITIALIZE:
            rate = self._initialize
            return [Bucket(INITIALIZE_RULE, exchange.principal, rate.rate, rate.burst)]
        tool = message.tool() if self._reads_tools else None
        upstream = exchange.route.name
        buckets = []
        for rule in self._rules:
            if rule.concerns(upstream, message.method, tool):
                key = _key_of(rule, exchange)
                rate = rule.tiers.get(exchange.tier, rule.rate)
                if key is not None:
                    if exchange.tier in rule.tiers:  # nobody else's rate flows into its bucket
                        key = f"{exchange.tier}/{key}"
                    buckets.append(Bucket(rule.name, key, rate.rate, rate.burst))
        return buckets

    def _fields(self, limited: Limited, after_s: float) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit fields as in draft-ietf-httpapi-ratelimit-headers-10; q is the burst."""
        bucket = limited.bucket
        after = math.ceil(min(after_s, 1e9))
        window = math.ceil(bucket.burst / bucket.rate)
        fields: Fields = [
            (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (bucket.rule.encode(), bucket.burst, window)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (bucket.rule.encode(), limited.remaining, after)),
        ]
        if self._x_ratelimit:
            fields += [
                (b"x-ratelimit-limit", b"%d" % bucket.burst),
                (b"x-ratelimit-remaining", b"%d" % limited.remaining),
                (b"x-ratelimit-reset", b"%d" % after),
            ]
        return tuple(fields)


def _key_of(rule: Rule, exchange: Exchange) -> str | None:
    """Return whose bucket it is; None where the request has none, and so is not counted."""
    match rule.key:
        case LimitKey.PRINCIPAL:
            return exchange.principal
        case LimitKey.ADDRESS:
            return exchange.client.peer
        case LimitKey.SESSION:
            return None if exchange.session is None else exchange.session.key
        case LimitKey.HEADER:
            value = first(exchange.accepted.head.fields, rule.header)
            return "" if value is None else value[:_KEY_BYTES_MAX].decode("latin-1")
        case LimitKey.ALL:
            return "all"


class AddressTokens:
    """What one connection has drawn ahead from its address's bucket.

    A bucket that holds thousands is drawn from in batches, so that most requests ask nobody.
    """

    __slots__ = ("_left", "_limits", "_until_s")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0
        self._until_s = 0.0

    def take(self, peer: str, now_s: float) -> Limited | None:
        """Spend one token; what is refused is returned."""
        if self._left and now_s < self._until_s:
            self._left -= 1
            return None
        limits = self._limits
        bucket = Bucket(ADDRESS_RULE, peer, limits.address.rate, limits.address.burst)
        limited: Limited | None = None
        for tokens in {limits.batch: None, 1: None}:
            answer = limits.limiter.ask(Take((bucket,), tokens), now_s + TAKE_S_MAX)
            if not isinstance(answer, Limited):
                self._left, self._until_s = tokens - 1, now_s + BATCH_S_MAX
                return None
            limited = answer
        return limited

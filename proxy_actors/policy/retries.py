"""Whether a request that has failed is sent again, and when. A pure rule; it never sends.

Three things decide. What is known of the try before, as gRPC's proposal A6 has it:

    unsent      it never left us: no connection, no process. Any request may be sent again.
    rejected    the server has said that it does not take it now: 429, or 503 with Retry-After. Any
                request may be, when the server says so.
    perhaps     it may have been executed. Only what does no harm twice may be.
    final       whatever else, what we ourselves refuse included: trying again at once is how an
                overload goes on.

What the request is: every message of MCP is a POST, so the JSON-RPC method says whether it does
harm twice, and for a tool its annotations, where the operator trusts the server to be honest
(RELIABILITY 1.3). And how many retries there are already: `policy/retry_budget.py`.

Nothing is sent again of whose answer a client has got a byte; that is the caller's to know.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from proxy_actors.errors import Executed, FailedError, Reason, Side
from proxy_actors.protocol.revisions import (
    INITIALIZE,
    PING,
    SET_LEVEL,
    SUBSCRIBE,
    TOOLS_LIST,
    UNSUBSCRIBE,
)

# What has not left us in so long will not be quicker the next time, at the same place.
UNSENT_S_MAX = 1.0
# A server that wants to be left alone for longer is told about to the client.
RETRY_AFTER_S_MAX = 2.0
# What never left us, if nothing of it has been executed.
_UNSENT = frozenset({Reason.CONNECT_FAILED, Reason.PROCESS_EXITED, Reason.UPSTREAM_UNAVAILABLE})
# What an upstream may have executed, and has not said so.
_PERHAPS = frozenset(
    {
        Reason.UPSTREAM_CLOSED, Reason.UPSTREAM_PROTOCOL, Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNAVAILABLE, Reason.PROCESS_EXITED,
    }
)  # fmt: skip
# Reads by convention, of which nobody knows what they cost.
_READS_ONCE = frozenset({"resources/read", "prompts/get", "completion/complete"})
# What changes nothing.
READS = _READS_ONCE | {
    PING, TOOLS_LIST, "prompts/list", "resources/list", "resources/templates/list",
}  # fmt: skip
# What is twice as it is once: a session that nobody uses ends, and what is set is set.
_HARMLESS = (READS - _READS_ONCE) | {INITIALIZE, SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE}


class Repeats(StrEnum):
    """How often a request that may have been executed may be sent again."""

    NEVER = "never"
    ONCE = "once"
    FREELY = "freely"


class Failure(StrEnum):
    """What is known of a try that has failed."""

    UNSENT = "unsent"
    REJECTED = "rejected"
    PERHAPS = "perhaps"
    FINAL = "final"


class RetryLimits(msgspec.Struct, frozen=True):
    """How a request is sent again.

    Attributes:
        attempts_max: retries of one request; 0: none.
        base_ms: the wait is drawn from 0 to this; the bound doubles with each retry.
        cap_ms: the most that it grows to.
        per_try_timeout_s: how long the head of an answer may take to come of what may be sent
            again; 0: as long as the whole call.
    """

    attempts_max: int = 2
    base_ms: int = 25
    cap_ms: int = 250
    per_try_timeout_s: float = 0.0


def repeats_of(method: str | None, tool_is_harmless: bool = False) -> Repeats:
    """Say how often a request with this method may be repeated.

    Args:
        tool_is_harmless: whether it calls a tool of which it is known, and believed, that it only
            reads or that twice is as once.
    """
    if method in _HARMLESS or tool_is_harmless:
        return Repeats.FREELY
    return Repeats.ONCE if method in _READS_ONCE else Repeats.NEVER


def failure_of(error: FailedError) -> Failure:
    """Say what is known of a try, by its error."""
    if error.side is not Side.UPSTREAM:
        return Failure.FINAL
    if error.answered == 429 or (error.answered == 503 and error.retry_after_s is not None):
        return Failure.REJECTED
    if error.answered is not None and error.answered < 500:
        return Failure.FINAL  # a judgement of the request, which will be the same
    if error.executed is Executed.UNKNOWN:
        return Failure.PERHAPS if error.reason in _PERHAPS else Failure.FINAL
    # Who says when to come back has judged already that at once is of no use.
    if error.answered is None and error.retry_after_s is None and error.reason in _UNSENT:
        return Failure.UNSENT
    return Failure.FINAL


def retry_wait_s(
    error: FailedError,
    repeats: Repeats,
    retries: int,
    took_s: float,
    elsewhere: bool,
    left_s: float,
    limits: RetryLimits,
    random: Callable[[], float],
) -> float | None:
    """Say how long to wait before a request is sent again; None when it is not.

    Args:
        error: of the try before.
        retries: how often it has been sent again already.
        took_s: how long the try before has taken.
        elsewhere: whether the next try goes to another endpoint.
        left_s: until the whole request's deadline.
        random: draws uniformly from [0, 1).
    """
    failure = failure_of(error)
    if failure is Failure.FINAL or retries >= limits.attempts_max:
        return None
    if failure is Failure.UNSENT and took_s >= UNSENT_S_MAX and not elsewhere:
        return None
    if failure is Failure.PERHAPS and (
        repeats is Repeats.NEVER or (repeats is Repeats.ONCE and retries)
    ):
        return None
    if failure is Failure.REJECTED and error.retry_after_s is not None:
        if error.retry_after_s > RETRY_AFTER_S_MAX:
            return None
        wait_s = error.retry_after_s * (1.0 + random() / 2)  # Envoy's jitter, from x to 1.5 x
    else:
        wait_s = random() * min(limits.cap_ms, limits.base_ms * 2**retries) / 1000
    return wait_s if wait_s < left_s else None

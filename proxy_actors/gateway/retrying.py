"""Sends a request again whose try has failed, where `policy/retries.py` says that it may be.

Runs in the client's greenlet, which waits here between two tries, before anything of an answer has
gone to the client: a forwarder that has returned is never asked again. Owns what is known of the
tools of one upstream, and the places of its retries. Where the time of a try is bounded at all, it
is bounded here: the head of its answer has to come in time, and all of it within the request's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.errors import (
    DeadlineError,
    Executed,
    FailedError,
    MailboxFullError,
    STATUS_OF_REASON,
    Reason,
    let_go,
)
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.response import Response
from proxy_actors.policy.calls_known import CallsKnown
from proxy_actors.policy.retries import (
    READS,
    Failure,
    Repeats,
    RetryLimits,
    failure_of,
    repeats_of,
    retry_wait_s,
)
from proxy_actors.policy.retry_budget import RetryBudget
from proxy_actors.policy.tool_hints import ToolHints
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import INITIALIZE, TOOLS_LIST
from proxy_actors.world.base import World

T = TypeVar("T")
# So many of the latest cancellations are remembered.
CANCELLED_MAX = 1000
# Why we ourselves have not sent a retry: what went before is the news then.
_NOT_SENT = frozenset(
    {Reason.CIRCUIT_OPEN, Reason.OVERLOADED, Reason.POOL_EXHAUSTED, Reason.DRAINING}
)


class Retrier:
    """Sends the requests to one upstream again.

    Args:
        first_byte_s: how long the head of any answer may take; 0: as long as the whole call.
        trusts: whether what the upstream says of its tools is believed.
        meters: where retries are counted.
    """

    def __init__(
        self,
        world: World,
        limits: RetryLimits,
        budget: RetryBudget,
        first_byte_s: float = 0.0,
        trusts: bool = False,
        meters: UpstreamMeters | None = None,
    ) -> None:
        self._world = world
        self._limits = limits
        self._budget = budget
        self._first_byte_s = first_byte_s
        self._meters = meters or UpstreamMeters()
        self.bounds_tries = bool(first_byte_s or limits.per_try_timeout_s)
        self.hints = ToolHints() if trusts else None
        self._cancelled: CallsKnown[bool] = CallsKnown(CANCELLED_MAX)

    def begin(self, exchange: Exchange) -> None:
        """Bound the time of the try in hand, where that is wanted."""
        bounds_s = [exchange.deadline_s]
        if self._first_byte_s:
            bounds_s.append(exchange.sent_s + self._first_byte_s)
        per_try_s = self._limits.per_try_timeout_s
        if per_try_s and self._repeats(exchange.message) is not Repeats.NEVER:
            bounds_s.append(exchange.sent_s + per_try_s)
        exchange.head_deadline_s = min(bounds_s)

    def again(
        self, error: FailedError, exchange: Exchange, send: Callable[[], T], elsewhere: bool
    ) -> T:
        """Send a request again after its first try, until it is answered or has failed in earnest.

        Args:
            error: of the first try.
            send: makes one try; raises as a forwarder does.
            elsewhere: whether it goes to another endpoint each time.

        Raises:
            FailedError: of the last try that may have been executed, or else of the last that was
                not our own to refuse.
        """
        world, retries = self._world, 0
        told = error
        while True:
            now_s = world.now_s()
            wait_s = retry_wait_s(
                error, self._repeats(exchange.message), retries, now_s - exchange.sent_s,
                elsewhere, exchange.deadline_s - now_s, self._limits, world.random,
            )
            if wait_s is None or self._is_cancelled(exchange):
                raise told
            if not self._budget.take():
                self._meters.retries_refused += 1
                raise told
            retries += 1
            try:
                self._wait(wait_s)
                if self._is_cancelled(exchange):
                    continue
                self._prepare(exchange, failure_of(error))
                self._meters.retries += 1
                return send()
            except MailboxFullError as full:
                raise told from full
            except FailedError as failed:
                if failed.reason in _NOT_SENT:
                    raise told from failed
                error = let_go(failed)
                told = _news(told, failed)
            finally:
                self._budget.give_back()

    def cancelled(self, session_key: str, request_id: bytes) -> None:
        """A client does not want this request answered any more: it is not sent again."""
        self._cancelled.enter(session_key, request_id, True)

    def learn(self, request: Message, response: Response, changes: int) -> None:
        """Read what the upstream says of its tools, where it is believed.

        Args:
            changes: of its list, as many as there were when the request was sent.
        """
        if self.hints is not None and request.method == TOOLS_LIST and response.stream is None:
            self.hints.learn(response.body, self._world.now_s(), changes)

    def reads(self, request: Message) -> bool:
        """Whether a request changes nothing, or a tool is called that may be called twice."""
        if request.method in READS or request.method == INITIALIZE:
            return True
        return self._hinted(request)

    # Inside.

    def _repeats(self, request: Message) -> Repeats:
        return repeats_of(request.method, self._hinted(request))

    def _is_cancelled(self, exchange: Exchange) -> bool:
        session = exchange.session  # `initialize` has none, and must not be cancelled
        if session is None:
            return False
        return self._cancelled.find(session.key, exchange.message.id) is not None

    def _hinted(self, request: Message) -> bool:
        if self.hints is None:
            return False
        tool = request.tool()
        return tool is not None and self.hints.repeats(tool, self._world.now_s())

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            try:
                self._world.waiter().wait(self._world.now_s() + seconds)
            except DeadlineError:
                pass

    def _prepare(self, exchange: Exchange, failure: Failure) -> None:
        """Make an exchange ready for another try."""
        exchange.tries += 1
        if failure is Failure.PERHAPS:
            exchange.may_be_running = True
        exchange.sent_s = self._world.now_s()
        self.begin(exchange)


def _news(before: FailedError, last: FailedError) -> FailedError:
    """Say which of two tries a client is told about.

    The last, unless the one before may have been executed and the last not: its reason would say
    that nothing was sent. That its session has ended a client has to hear in any case.
    """
    if before.executed is Executed.NO or last.executed is Executed.UNKNOWN:
        return last
    if last.reason is Reason.SESSION_LOST and last.status == STATUS_OF_REASON[last.reason]:
        last.executed, last.retryable = Executed.UNKNOWN, False
        return last
    return before

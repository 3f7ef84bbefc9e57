"""Who may wait for a connection, and who is told at once that there will be none in time.

A stream keeps its connection for long, so nobody may have so many that the next finds none: who has
some may begin one more by the rule of `policy/shares.py`. A stream that is opened anew is one of
before and is not held to it.

Owns the rate at which calls are served while others wait, and the count of those turned away. It
never touches a queue: `policy/pool.py` does what it says.
"""

from __future__ import annotations

from proxy_actors.errors import Reason
from proxy_actors.messages.pool import CheckoutConnection, Purpose, Refuse
from proxy_actors.policy.ledger import Ledger
from proxy_actors.policy.pool_limits import PoolLimits
from proxy_actors.policy.service_rate import ServiceRate
from proxy_actors.policy.shares import may_have_one_more


class Admission:
    """Decides for one pool, whose rows it reads in the ledger."""

    __slots__ = ("_ledger", "_limits", "_rate", "_served", "shed")

    def __init__(self, limits: PoolLimits, ledger: Ledger) -> None:
        self._limits = limits
        self._ledger = ledger
        self._rate = ServiceRate()
        self._served = 0
        self.shed = 0

    def refusal(self, checkout: CheckoutConnection, now_s: float) -> Refuse | None:
        """Return who is not to wait, the newcomer or one that waits already; None: all may."""
        if checkout.purpose is Purpose.STREAM and self._has_its_streams(checkout):
            self.shed += 1
            return Refuse(checkout.waiter_id, Reason.RATE_LIMITED)
        queue = self._ledger.waiting[checkout.purpose]
        waiting = len(queue.rows)
        if waiting >= self._limits.waiters_max:
            self.shed += 1
            return Refuse(queue.to_give_way(checkout), Reason.POOL_EXHAUSTED)
        if not waiting or checkout.purpose is not Purpose.CALL:
            return None
        left_s = checkout.deadline_s - now_s
        wait_s = self._rate.wait_s(waiting)
        if wait_s is None or wait_s <= left_s:
            return None  # not even behind all others would it wait too long
        # Who is next is let in whatever it looks like: else no rate would ever be measured.
        ahead = queue.ahead_of(checkout.owner)
        wait_s = self._rate.wait_s(ahead) if ahead else None
        if wait_s is None or wait_s <= left_s:
            return None
        self.shed += 1
        return Refuse(checkout.waiter_id, Reason.OVERLOADED, wait_s - left_s)

    def _has_its_streams(self, checkout: CheckoutConnection) -> bool:
        """Whether the owner is to leave the rest to others; who waits counts as if it had one."""
        if not checkout.owner.name or checkout.exchange_id < 0:
            return False
        queue = self._ledger.waiting[Purpose.STREAM]
        own = queue.claimed(checkout.owner.name)
        rest = self._limits.streams_max - self._ledger.leased(Purpose.STREAM) - len(queue.rows)
        return own > 0 and not may_have_one_more(own, rest)

    def served(self, purpose: Purpose) -> None:
        """Somebody has been given a connection."""
        self._served += purpose is Purpose.CALL

    def look(self, waiting: int, now_s: float) -> None:
        """Take in what has become of the queue of calls."""
        if waiting or self._rate.busy:
            self._rate.observe(waiting, self._served, now_s)
        self._served = 0

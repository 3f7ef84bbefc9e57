"""Who may wait for a connection, and who is told at once that there will be none in time.

Owns the rate at which calls are served while others wait, and the count of those turned away. It
never touches a queue: `policy/pool.py` does what it says.
"""

from __future__ import annotations

from proxy_actors.errors import Reason
from proxy_actors.messages.pool import CheckoutConnection, Purpose, Refuse
from proxy_actors.policy.fair_queue import FairQueue
from proxy_actors.policy.service_rate import ServiceRate


class Admission:
    """Decides for one pool, whose queues hold `waiters_max` each."""

    __slots__ = ("_rate", "_served", "_waiters_max", "shed")

    def __init__(self, waiters_max: int) -> None:
        self._waiters_max = waiters_max
        self._rate = ServiceRate()
        self._served = 0
        self.shed = 0

    def refusal(
        self, queue: FairQueue[CheckoutConnection], checkout: CheckoutConnection, now_s: float
    ) -> Refuse | None:
        """Return who is not to wait, the newcomer or one that waits already; None: all may."""
        waiting = len(queue.rows)
        if waiting >= self._waiters_max:
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

    def served(self, purpose: Purpose) -> None:
        """Somebody has been given a connection."""
        self._served += purpose is Purpose.CALL

    def look(self, waiting: int, now_s: float) -> None:
        """Take in what has become of the queue of calls."""
        if waiting or self._rate.busy:
            self._rate.observe(waiting, self._served, now_s)
        self._served = 0

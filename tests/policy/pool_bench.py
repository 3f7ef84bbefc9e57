"""A pool policy with a clock, for tests that tell it one thing after another."""

from __future__ import annotations

from proxy_actors.messages import pool as m
from proxy_actors.messages.pool import PoolEffect, PoolMessage, Purpose
from proxy_actors.policy.ledger import InheritedLease
from proxy_actors.policy.pool import SWEEP_INTERVAL_S, PoolPolicy
from proxy_actors.policy.pool_limits import PoolGauges, PoolLimits

CALL, RESERVED, STREAM = Purpose.CALL, Purpose.RESERVED, Purpose.STREAM
SMALL = PoolLimits(connections_max=2, reserve=1, streams_max=1, waiters_max=4)


class Bench:
    """A pool under test, a clock, and what it said last."""

    def __init__(
        self,
        limits: PoolLimits = SMALL,
        incarnation: int = 1,
        inherited: tuple[InheritedLease, ...] = (),
    ) -> None:
        self.policy = PoolPolicy(limits, incarnation, inherited)
        self.now_s = 50.0
        self.waiters = 0
        self.sweep = 0
        self.effects: list[PoolEffect] = []
        self.tell(m.SweepDue(0))

    def tell(self, message: PoolMessage) -> list[PoolEffect]:
        """Tell a message; Wake and Recall are told apart and not among the effects."""
        self.effects = []
        self.recalls: list[m.Recall] = []
        for effect in self.policy.handle(message, self.now_s):
            if isinstance(effect, m.Wake):
                assert effect.after_s == SWEEP_INTERVAL_S
                self.sweep = effect.generation
            elif isinstance(effect, m.Recall):
                self.recalls.append(effect)
            else:
                self.effects.append(effect)
        return self.effects

    def ask(
        self,
        purpose: Purpose = CALL,
        idle_s_max: float = 60.0,
        exchange_id: int = 0,
        owner: m.Owner = m.NOBODY,
        patience_s: float = 10.0,
    ) -> list[PoolEffect]:
        """Check out as the next waiter."""
        self.waiters += 1
        return self.tell(m.CheckoutConnection(
            self.waiters, exchange_id or self.waiters, purpose, self.now_s + patience_s,
            idle_s_max, owner,
        ))

    def lease(
        self, purpose: Purpose = CALL, exchange_id: int = 0, owner: m.Owner = m.NOBODY
    ) -> m.Grant:
        """Check out and get a lease, opening a connection if it takes one."""
        effects = self.ask(purpose, exchange_id=exchange_id, owner=owner)
        if effects and isinstance(effects[0], m.Open):
            effects = self.tell(m.ConnectionOpened(effects[0].connection_id))
        (grant,) = effects
        assert isinstance(grant, m.Grant)
        return grant

    def give_back(
        self, grant: m.Grant, reusable: bool = True, idle_s_max: float | None = None
    ) -> list[PoolEffect]:
        return self.tell(m.ReturnConnection(grant.lease_id, reusable, idle_s_max))

    def sweep_after(self, seconds: float) -> list[PoolEffect]:
        self.now_s += seconds
        return self.tell(m.SweepDue(self.sweep))

    def opened(self) -> int:
        """The connection that the last message opened."""
        (effect,) = [x for x in self.effects if isinstance(x, m.Open)]
        return effect.connection_id


def gauges(bench: Bench) -> PoolGauges:
    return bench.policy.gauges()

"""The root supervisor: orders a drain, hands on to the service what its children tell of it.

Owns the one exception to stopping in the reverse order of starting: upstreams, which are started
first, are stopped first as well. So the calls that a stop cuts short fail while there still are a
registry and a listener, and are answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.messages.health import GuardDrained
from proxy_actors.messages.server import ListenerHandedOver, ServerDrained
from proxy_actors.messages.supervision import DrainTree, SupervisorReady
from proxy_actors.messages.upstream import UpstreamDrained
from proxy_actors.policy.supervision import Budget
from proxy_actors.world.base import World


class Root(Supervisor):
    """Supervises the whole tree; its parent is the service. `upstreams` come before `workers`."""

    def __init__(
        self,
        world: World,
        name: str,
        workers: Sequence[Worker],
        budget: Budget = Budget(),
        *,
        upstreams: Sequence[Worker] = (),
    ) -> None:
        super().__init__(world, name, [*upstreams, *workers], budget=budget)
        self._upstreams = {worker.slot.name for worker in upstreams}

    def stop_order(self) -> list[list[str]]:
        """Stop the upstreams, all at once, then the others, last started first."""
        others = [group for group in super().stop_order() if not set(group) & self._upstreams]
        return [sorted(self._upstreams), *others]

    def on_receive(self, message: Any) -> Any:  # Any: see Supervisor
        """Pass the order to drain down, and what comes of it up."""
        if isinstance(message, DrainTree):
            self.drain()
            return None
        if isinstance(
            message, (ListenerHandedOver, ServerDrained, UpstreamDrained, GuardDrained)
        ):
            if self.parent is not None:
                self.parent.tell(message)
            return None
        if isinstance(message, SupervisorReady):
            return None  # a child that supervises; the root's own readiness is what counts
        return super().on_receive(message)

"""The root supervisor: orders a drain, hands on to the service what its children tell of it."""

from __future__ import annotations

from typing import Any

from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.messages.server import ServerDrained
from proxy_actors.messages.supervision import DrainTree, SupervisorReady
from proxy_actors.messages.upstream import UpstreamDrained


class Root(Supervisor):
    """Supervises the whole tree; its parent is the service."""

    def on_receive(self, message: Any) -> Any:  # Any: see Supervisor
        """Pass the order to drain down, and what comes of it up."""
        if isinstance(message, DrainTree):
            self.drain()
            return None
        if isinstance(message, (ServerDrained, UpstreamDrained)):
            if self.parent is not None:
                self.parent.tell(message)
            return None
        if isinstance(message, SupervisorReady):
            return None  # a child that supervises; the root's own readiness is what counts
        return super().on_receive(message)

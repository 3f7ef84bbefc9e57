"""An upstream with several endpoints: their supervisor.

Each endpoint has an actor like that of an upstream which has only one. Owns nothing of what they
do: it passes on what concerns one of them, and tells when all of them have drained. Which endpoint
gets what is decided in the data plane (`gateway/guarded.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.supervisor import Supervisor, Worker
from proxy_actors.errors import ProxyActorsError
from proxy_actors.messages.sessions import SessionEnded
from proxy_actors.messages.supervision import SupervisorReady
from proxy_actors.messages.upstream import DrainUpstream, UpstreamDrained
from proxy_actors.policy.endpoint_state import actor_of
from proxy_actors.world.base import World


class UpstreamGroup(Supervisor):
    """The supervisor of the endpoints of one upstream.

    Args:
        slot: its stable name.
        endpoints: their workers.
        keys: what resumable sessions have as their endpoint, with the endpoint's actor.
    """

    mail_max = 10_000

    def __init__(
        self, world: World, slot: Slot, endpoints: Sequence[Worker], keys: Mapping[str, Slot]
    ) -> None:
        super().__init__(world, slot.name, endpoints)
        self._keys = keys
        self._slots = {worker.slot.name: worker.slot for worker in endpoints}
        self._to_drain = set(self._slots)

    def on_receive(self, message: Any) -> Any:  # Any: see Supervisor
        """Pass on the end of a session, and the order to drain; hear of the end of that."""
        match message:
            case SessionEnded(session):
                home = self._home(session.endpoint)
                if home is not None:
                    home.tell(message)
            case DrainUpstream():
                self.drain()
            case UpstreamDrained(endpoint):
                self._drained(endpoint)
            case SupervisorReady():
                pass  # an endpoint that supervises
            case _:
                raise ProxyActorsError(f"{self.name} does not understand {type(message).__name__}")
        return None

    def _home(self, endpoint: str) -> Slot | None:
        """Find the actor of a session's endpoint: by its key, or by the name of its channel."""
        return self._keys.get(endpoint) or self._slots.get(actor_of(endpoint))

    def _drained(self, endpoint: str) -> None:
        self._to_drain.discard(endpoint)
        if not self._to_drain and self.parent is not None:
            self.parent.tell(UpstreamDrained(self.name))

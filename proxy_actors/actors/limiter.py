"""The shell of the rate limiter: answers who asks for tokens.

Owns the timer of its sweep and nothing else. A restart begins with full buckets: limits bound what
clients do, and a proxy that refused everybody after a crash would do more harm than a burst.
"""

from __future__ import annotations

from proxy_actors.actors.base import Actor
from proxy_actors.actors.refs import Slot
from proxy_actors.messages import limiter as m
from proxy_actors.messages.limiter import LimiterMessage
from proxy_actors.policy.limiter import LimiterPolicy
from proxy_actors.world.base import World


class Limiter(Actor):
    """The rate limiter of the process."""

    mail_max = 10_000

    def __init__(self, world: World, slot: Slot, buckets_max: int) -> None:
        super().__init__(world, slot.name)
        self._policy = LimiterPolicy(buckets_max)

    def on_receive(self, message: LimiterMessage) -> m.Granted | m.Limited | None:
        """Apply the message; a Take is answered at once."""
        answer: m.Granted | m.Limited | None = None
        for effect in self._policy.handle(message, self.world.now_s()):
            match effect:
                case m.Granted() | m.Limited():
                    answer = effect
                case m.Wake(after_s, generation):
                    self.world.timer(after_s, self.ref, m.BucketSweepDue(generation))
        return answer

    def describe(self) -> dict[str, object]:
        """Return the table in figures."""
        gauges = self._policy.gauges()
        return {name: getattr(gauges, name) for name in gauges.__struct_fields__}

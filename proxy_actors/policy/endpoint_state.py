"""What is known of one endpoint of an upstream, where the data plane can see it.

Owns plain values, and outlives every actor: an actor that is started anew finds here what its
predecessor knew. Whether the endpoint `takes` and `serves` is written by the upstream's guard
alone; what is in flight is counted by the data plane. Nothing here decides.
"""

from __future__ import annotations

from proxy_actors.messages.breaker import Opened
from proxy_actors.policy.peak_ewma import PeakEwma

# More than what can be in hand where owners have their shares: so one alone does not come to it.
REQUESTS_MAX = 4096


class EndpointState:
    """One server of an upstream.

    Attributes:
        name: its configured name; the upstream's own where it is the only one.
        weight: its share of new sessions among those of its kind, 1 to 1000.
        backup: whether it is used only while no other can be.
        takes: whether it may be given new sessions.
        serves: whether the sessions that it has may use it.
        drained: whether the operator has taken it out: no panic gives it new sessions.
        taken_up_s: since when it takes sessions again; None where it always has.
        watched: whether its guard wants to hear of calls that succeed, since some have not.
        gated: whether calls have to be let through, since a limit or a breaker has a say.
        epoch: what a call has as its permit that begins now and has not asked for one.
        opened: what is known of its circuit breakers that are not closed, by tool.
        pending: the calls that have been sent to it and not been answered.
        requests_max: how many of them there may be.
        streaming: those whose answers have become event streams that are open.
        latency: how long they take, where somebody chooses by it.
        succeeded: the calls that did not fail by its fault, ever; counted by the data plane.
    """

    __slots__ = (
        "backup", "drained", "epoch", "gated", "latency", "name", "opened", "pending",
        "requests_max", "serves", "streaming", "succeeded", "taken_up_s", "takes", "watched",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        weight: int = 1,
        backup: bool = False,
        latency: PeakEwma | None = None,
        requests_max: int = REQUESTS_MAX,
    ) -> None:
        self.name = name
        self.weight = weight
        self.backup = backup
        self.takes = True
        self.serves = True
        self.drained = False
        self.taken_up_s: float | None = None
        self.watched = False
        self.gated = False
        self.epoch = 0
        self.opened: dict[str, Opened] = {}
        self.pending = 0
        self.requests_max = requests_max
        self.streaming = 0
        self.latency = latency
        self.succeeded = 0

    @property
    def active(self) -> int:
        """How many calls it has in hand."""
        return self.pending + self.streaming

    def become(self, takes: bool, serves: bool, now_s: float) -> None:
        """Set what it may be used for; for the guard alone.

        One that takes sessions again is given few at first (slow start); at the start of the
        process all of them begin at once.
        """
        if takes and not self.takes:
            self.taken_up_s = now_s
        self.takes = takes
        self.serves = serves


def actor_of(name: str) -> str:
    """Return the name of an endpoint's actor, by that of whatever is below it.

    Where an upstream has several endpoints their actors are upstream/NAME/ENDPOINT.
    """
    return "/".join(name.split("/", 3)[:3])

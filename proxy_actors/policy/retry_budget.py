"""How many retries there may be at a time: a share of what is in flight, and a few in any case.

Where one call in a hundred fails, each may be sent again. Where all fail, that would make an
upstream's load several times what it cannot bear already; so retries are bounded by what is in
flight, as by Envoy's retry budget. Owns the number of retries that wait or are in flight.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy_actors.policy.endpoint_state import EndpointState


class RetryBudget:
    """The retries of one upstream.

    Args:
        endpoints: where what is in flight is counted.
        percent: the share of what is in flight, 0 to 100.
        least: so many are allowed however little is in flight.

    Attributes:
        active: the retries that wait or are in flight.
    """

    __slots__ = ("_endpoints", "_least", "_percent", "active")

    def __init__(self, endpoints: Sequence[EndpointState], percent: float, least: int) -> None:
        self._endpoints = endpoints
        self._percent = percent
        self._least = least
        self.active = 0

    def take(self) -> bool:
        """Take a retry's place, to be given back; False where there is none."""
        in_flight = sum(endpoint.active for endpoint in self._endpoints)
        if self.active >= max(self._least, in_flight * self._percent / 100):
            return False
        self.active += 1
        return True

    def give_back(self) -> None:
        """A retry has ended."""
        self.active -= 1

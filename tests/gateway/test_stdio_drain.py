"""A server on stdio that is drained opens no session any more, and says so.

RELIABILITY 1.9, 1.11. In virtual time, with servers that take a while to start.
"""

from __future__ import annotations

import pytest

from proxy_actors.messages.upstream import DrainUpstream
from proxy_actors.options import StdioMode
from tests.gateway.test_stdio_shares import Crowd
from tests.sim.virtual import Answer, VirtualConnection, initialize, request


def opening(crowd: Crowd) -> Answer:
    """An answer that fills as it comes."""
    answer = Answer()

    def client() -> None:
        connection = VirtualConnection(crowd)
        connection.send(request(initialize()))
        connection.receive(answer=answer)
        connection.close()

    crowd.spawn("client", client)
    crowd.run(0.1)
    return answer


@pytest.mark.parametrize("mode", StdioMode)
def test_initialize_in_a_drain_is_told_so(mode: StdioMode) -> None:
    """503, not executed, and when to come back."""
    crowd = Crowd(mode, starts_s=0.1)
    crowd.run(1.0)
    crowd.plane.upstream.tell(DrainUpstream())
    refused = opening(crowd)
    assert (refused.status, refused.error["data"]["reason"]) == (503, "draining")
    assert refused.error["data"]["executed"] == "no"
    assert refused.field(b"retry-after") == b"5"


@pytest.mark.parametrize("mode", [StdioMode.SHARED, StdioMode.POOL])
def test_initialize_that_waits_for_the_first_process_is_told_of_the_drain(mode: StdioMode) -> None:
    """At once, as calls are that wait for one."""
    crowd = Crowd(mode, starts_s=10.0)
    waits = opening(crowd)
    assert waits.status is None
    crowd.plane.upstream.tell(DrainUpstream())
    crowd.run(0.1)
    assert (waits.status, waits.error["data"]["reason"]) == (503, "draining")

"""Where a path leads: the upstreams by the endpoints at which they are served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

import msgspec

from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.actors.refs import Slot
from proxy_actors.gateway.forwarder import CALL_S_MAX, Forwarder
from proxy_actors.policy.endpoint_state import EndpointState


class Endpoint(Enum):
    """What is served at a path.

    MCP is the one endpoint of Streamable HTTP. SSE and MESSAGES are the two of the transport that
    2024-11-05 had: they stand on paths of their own, because a GET of one path could mean either.
    """

    MCP = b"/mcp"
    SSE = b"/sse"
    MESSAGES = b"/messages"
    OURS = b""


MCP: Final = Endpoint.MCP
SSE: Final = Endpoint.SSE
MESSAGES: Final = Endpoint.MESSAGES
OURS: Final = Endpoint.OURS
_NOWHERE: tuple[None, Endpoint] = (None, OURS)


class Route(msgspec.Struct, frozen=True):
    """One upstream, as the data plane sees it.

    Attributes:
        name: its configured name.
        slot: its actor, which answers DescribeReadiness.
        forwarder: carries exchanges to it.
        call_s_max: how long a call may take.
        homes: the actors of its endpoints, by what resumable sessions have as their endpoint.
        meters: where it is counted.
        endpoints: how its endpoints are.
    """

    name: str
    slot: Slot
    forwarder: Forwarder
    call_s_max: float = CALL_S_MAX
    homes: Mapping[str, Slot] = {}
    meters: UpstreamMeters = msgspec.field(default_factory=UpstreamMeters)
    endpoints: tuple[EndpointState, ...] = ()


class Routes:
    """The routes by path: /mcp/NAME, and /mcp for the default one; so with the other endpoints.

    Args:
        routes: at least one.
        default: the name of the default one.
    """

    def __init__(self, routes: Iterable[Route], default: str) -> None:
        self.by_name = {route.name: route for route in routes}
        self._by_path: dict[bytes, tuple[Route, Endpoint]] = {}
        for endpoint in (MCP, SSE, MESSAGES):
            self._by_path[endpoint.value] = self.by_name[default], endpoint
            for name, route in self.by_name.items():
                path = b"%b/%b" % (endpoint.value, name.encode("ascii"))
                self._by_path[path] = route, endpoint

    def find(self, path: bytes) -> tuple[Route | None, Endpoint]:
        """Find the route of a path, undecoded as it came, and which of its endpoints that is.

        Where there is none, a page of the proxy's own may be.
        """
        return self._by_path.get(path, _NOWHERE)

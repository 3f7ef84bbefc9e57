"""Where a path leads: the upstreams by the MCP endpoints at which they are served."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy_actors.actors.meters import UpstreamMeters
from proxy_actors.actors.refs import Slot
from proxy_actors.gateway.forwarder import CALL_S_MAX, Forwarder

DEFAULT_PATH = b"/mcp"


class Route(msgspec.Struct, frozen=True):
    """One upstream, as the data plane sees it.

    Attributes:
        name: its configured name.
        slot: its actor, which answers DescribeReadiness.
        forwarder: carries exchanges to it.
        call_s_max: how long a call may take.
        endpoint: what tells its server from any other; sessions are bound to it.
        meters: where it is counted.
    """

    name: str
    slot: Slot
    forwarder: Forwarder
    call_s_max: float = CALL_S_MAX
    endpoint: str = ""
    meters: UpstreamMeters = msgspec.field(default_factory=UpstreamMeters)


class Routes:
    """The routes by path: /mcp/NAME, and /mcp for the default one.

    Args:
        routes: at least one.
        default: the name of the one at /mcp.
    """

    def __init__(self, routes: Iterable[Route], default: str) -> None:
        self.by_name = {route.name: route for route in routes}
        self._by_path = {
            b"%b/%b" % (DEFAULT_PATH, name.encode("ascii")): route
            for name, route in self.by_name.items()
        }
        self._by_path[DEFAULT_PATH] = self.by_name[default]

    def find(self, path: bytes) -> Route | None:
        """Find the route of a path, undecoded as it came; None when there is none."""
        return self._by_path.get(path)

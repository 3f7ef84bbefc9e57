"""Which path leads to which upstream, and that a session stays at its own."""

from __future__ import annotations

from typing import Any, cast

import pytest

from proxy_actors.actors.refs import Slot
from proxy_actors.gateway.forwarder import Forwarder
from proxy_actors.gateway.route import MCP, MESSAGES, OURS, SSE, Endpoint, Route, Routes
from tests.gateway.scene import Scene
from tests.sim.virtual import call, request

FORWARDER = cast(Forwarder, None)


def routes() -> Routes:
    names = ("files", "web")
    return Routes([Route(name, Slot(f"upstream/{name}"), FORWARDER) for name in names], "web")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/mcp", "web"), (b"/mcp/files", "files"), (b"/mcp/web", "web"),
        (b"/mcp/", None), (b"/mcp/other", None), (b"/MCP/files", None), (b"/mcp/files/", None),
        (b"/mcp/%66iles", None), (b"/mcp/files/../web", None), (b"/", None),
    ],
)
def test_path_leads_to_an_upstream_or_nowhere(path: bytes, name: str | None) -> None:
    """As it came: a name has one spelling."""
    route, _ = routes().find(path)
    assert (None if route is None else route.name) == name


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [(b"/mcp/files", MCP), (b"/sse", SSE), (b"/sse/files", SSE), (b"/messages", MESSAGES),
     (b"/messages/files", MESSAGES), (b"/sse/other", OURS), (b"/messages/", OURS), (b"/", OURS)],
)  # fmt: skip
def test_path_leads_to_one_endpoint_of_its_upstream(path: bytes, endpoint: Endpoint) -> None:
    """MCP-L-6: the two transports stand side by side, on different paths."""
    route, found = routes().find(path)
    assert found is endpoint
    name = None if found is OURS else "files" if path.endswith(b"files") else "web"
    assert (None if route is None else route.name) == name


def test_upstream_is_served_under_its_name_and_as_the_default() -> None:
    scene = Scene()
    session = scene.session()
    for path in ("/mcp", "/mcp/default"):
        assert scene.ask(request(call(1), session=session, path=path)).status == 200
    assert scene.ask(request(call(2), session=session, path="/mcp/other")).status == 404
    scene.rest()


def test_session_of_another_upstream_is_unknown() -> None:
    """MCP-S-4: what an id opens at one endpoint it opens at that one only."""
    scene = Scene()
    session = scene.session()
    plane: Any = scene.plane
    route = plane.wiring.routes.by_name["default"]
    plane.wiring.routes = Routes(
        [route, Route("other", route.slot, route.forwarder)], "default"
    )
    assert scene.ask(request(call(1), session=session, path="/mcp/other")).status == 404
    assert scene.server.executions[1] == 0
    assert scene.ask(request(call(1), session=session, path="/mcp")).status == 200
    scene.rest()

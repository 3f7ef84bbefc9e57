"""The pages that are served here and say how the proxy itself is."""

from __future__ import annotations

import json

from proxy_actors.errors import ProxyActorsError
from proxy_actors.gateway.response import Response, json_response
from proxy_actors.gateway.route import Route
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.lifecycle import DescribeState
from proxy_actors.messages.upstream import DescribeReadiness, Readiness

PAGES = frozenset({b"/health", b"/ready", b"/admin/health"})
PAGE_S_MAX = 1.0


def page(path: bytes, wiring: Wiring) -> Response:
    """Answer a GET of a page.

    Raises:
        ProxyActorsError: the supervisor does not answer.
    """
    if path == b"/ready":
        return _ready(wiring)
    wiring.health.ask(DescribeState(), wiring.world.now_s() + PAGE_S_MAX)
    return json_response(b'{"status":"ok"}')


def _ready(wiring: Wiring) -> Response:
    """Say whether calls can be taken: no drain has begun, and some upstream is ready.

    One upstream of several that is away does not take the others from their clients: which are
    ready stands in the answer.
    """
    ready = {name: _is_ready(route, wiring) for name, route in wiring.routes.by_name.items()}
    if wiring.draining:
        status = "draining"
    else:
        status = "ready" if any(ready.values()) else "not ready"
    upstreams = {name: "ready" if state else "not ready" for name, state in ready.items()}
    body = json.dumps({"status": status, "upstreams": upstreams}, separators=(",", ":"))
    return json_response(body.encode("ascii"), status=200 if status == "ready" else 503)


def _is_ready(route: Route, wiring: Wiring) -> bool:
    try:
        readiness: Readiness = route.slot.ask(
            DescribeReadiness(), wiring.world.now_s() + PAGE_S_MAX
        )
    except ProxyActorsError:
        return False  # being restarted, or too busy to say
    return readiness.ready

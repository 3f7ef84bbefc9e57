"""The pages that are served here and say how the proxy itself is."""

from __future__ import annotations

import json

from proxy_actors.actors.refs import Slot
from proxy_actors.errors import ProxyActorsError
from proxy_actors.gateway.response import Response, json_response
from proxy_actors.gateway.route import Route
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.lifecycle import DescribeState
from proxy_actors.messages.upstream import DescribeReadiness, Readiness
from proxy_actors.policy.endpoint_state import EndpointState

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
    ready stands in the answer, how each of several endpoints is, and the cause of what is not
    ready, where it is known. So does whether sessions can be stored (FLT-P6): while they cannot,
    those that are go on.
    """
    states = {name: _state_of(route, wiring) for name, route in wiring.routes.by_name.items()}
    if wiring.draining:
        status = "draining"
    else:
        status = _word(any(state.ready for state in states.values()))
    document: dict[str, object] = {
        "status": status,
        "upstreams": {name: _word(state.ready) for name, state in states.items()},
        "sessions": "stored" if _state(wiring.registry, wiring).ready else "not stored",
    }
    endpoints = {
        name: {x.name: _use(x) for x in route.endpoints}
        for name, route in wiring.routes.by_name.items()
        if len(route.endpoints) > 1
    }
    if endpoints:
        document["endpoints"] = endpoints
    causes = {name: state.cause for name, state in states.items() if state.cause}
    if causes:
        document["causes"] = causes
    body = json.dumps(document, separators=(",", ":"))
    return json_response(body.encode("ascii"), status=200 if status == "ready" else 503)


def _word(ready: bool) -> str:
    return "ready" if ready else "not ready"


def _state_of(route: Route, wiring: Wiring) -> Readiness:
    """Return the state of the first endpoint that is ready, or of the first that is not.

    Where none may be used, since the checks of all have failed, say, none is ready.
    """
    states = [_state(slot, wiring) for slot in route.homes.values() or (route.slot,)]
    state = next((state for state in states if state.ready), states[0])
    used = not route.endpoints or any(endpoint.serves for endpoint in route.endpoints)
    return state if used else Readiness(False, "no endpoint may be used", state.cause)


def _use(endpoint: EndpointState) -> str:
    """Say whether an endpoint takes sessions, or serves those that it has."""
    return "ready" if endpoint.takes else "serving" if endpoint.serves else "not ready"


def _state(slot: Slot, wiring: Wiring) -> Readiness:
    try:
        readiness: Readiness = slot.ask(DescribeReadiness(), wiring.world.now_s() + PAGE_S_MAX)
        return readiness
    except ProxyActorsError:
        return Readiness(False)  # being restarted, or too busy to say

"""From a complete request to its answer: the steps of the stack, then whoever serves it.

Runs in the client's greenlet. Errors go up to the connection, which has them rescued.
"""

from __future__ import annotations

from functools import partial

from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import RefusedError
from proxy_actors.gateway import apart, legacy, stack
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.pages import page
from proxy_actors.gateway.resume import resume
from proxy_actors.gateway.response import ACCEPTED, Response
from proxy_actors.gateway.route import MCP, MESSAGES, OURS, SSE
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.sessions import EndReason, EndSession
from proxy_actors.protocol.jsonrpc import REQUEST, Message


def answer(exchange: Exchange, wiring: Wiring) -> Response:
    """Answer a request whose head has been checked.

    Raises:
        ProxyActorsError: to be rescued under `exchange.answer_id`.
    """
    accepted = exchange.accepted
    head = accepted.head
    endpoint = accepted.endpoint
    if head.method == b"POST" and endpoint is MCP:
        return _post(exchange, wiring)
    if head.method == b"OPTIONS":
        return Response(204, [(b"allow", stack.ALLOW[endpoint])])
    if endpoint is OURS:
        return page(head.path, wiring)
    if endpoint is SSE:
        return legacy.open_stream(exchange, wiring)
    if endpoint is MESSAGES:
        return legacy.post(exchange, wiring)
    steps = stack.STEPS_OF_GET if head.method == b"GET" else stack.STEPS_OF_DELETE
    for step in steps:
        step(exchange, wiring)
    if head.method == b"GET":
        resumed = resume(exchange, wiring)
        if resumed is not None:
            return resumed
        return exchange.route.forwarder.open_standalone(exchange)
    return _delete(exchange, wiring)


def _post(exchange: Exchange, wiring: Wiring) -> Response:
    for step in stack.STEPS_OF_POST:
        step(exchange, wiring)
    if exchange.batch:
        return _batch(exchange, wiring)
    forwarder = exchange.route.forwarder
    if exchange.message.kind is not REQUEST:
        forwarder.post(exchange)
        return ACCEPTED
    if exchange.opens_session:
        return forwarder.initialize(exchange)
    return forwarder.call(exchange)


def _delete(exchange: Exchange, wiring: Wiring) -> Response:
    """End the session: durably, before the answer leaves (MCP-S-7)."""
    ask = EndSession(exchange.in_session().key, EndReason.DELETED)
    if not wiring.registry.ask(ask, exchange.deadline_s):
        raise RefusedError(404, "there is no such session")
    return Response(200)


def _batch(exchange: Exchange, wiring: Wiring) -> Response:
    """Serve the messages of an array one by one (MCP-S-12), the requests all at once.

    The answers come as one event stream, each as soon as it is there, since a request of the server
    among them must reach the client before the answers that wait for it.
    """
    requests = []
    exchange.parted = True
    for message in exchange.messages:
        if message.kind is REQUEST:
            requests.append(message)
        else:
            apart.post(exchange.for_message(message, next(wiring.exchange_ids)), wiring)
    if not requests:
        return ACCEPTED
    merged = Subscriber(wiring.world)
    left = [len(requests)]

    def serve(message: Message) -> None:
        one = exchange.for_message(message, next(wiring.exchange_ids))
        try:
            apart.serve_into(merged, one, wiring, one.route.forwarder.call)
        except BaseException:
            merged.abort()
            raise
        left[0] -= 1
        if not left[0]:
            merged.end()

    for message in requests:
        wiring.world.spawn("batch call", partial(serve, message))
    return Response(200, stream=merged)

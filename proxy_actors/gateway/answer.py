"""From a complete request to its answer: the steps of the stack, then whoever serves it.

Runs in the client's greenlet. Errors go up to the connection, which has them rescued.
"""

from __future__ import annotations

from functools import partial

from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import GatewayError, RefusedError
from proxy_actors.gateway import rescue, stack
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.metering import count_message, outcome
from proxy_actors.gateway.pages import page
from proxy_actors.gateway.relay import messages_of
from proxy_actors.gateway.response import ACCEPTED, Response
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
    if head.method == b"POST" and accepted.route is not None:
        return _post(exchange, wiring)
    if head.method == b"OPTIONS":
        allow = b"GET, HEAD" if accepted.route is None else b"POST, GET, DELETE, OPTIONS"
        return Response(204, [(b"allow", allow)])
    if accepted.route is None:
        return page(head.path, wiring)
    steps = stack.STEPS_OF_GET if head.method == b"GET" else stack.STEPS_OF_DELETE
    for step in steps:
        step(exchange, wiring)
    if head.method == b"GET":
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
            _post_one(exchange.for_message(message, next(wiring.exchange_ids)), wiring)
    if not requests:
        return ACCEPTED
    merged = Subscriber(wiring.world)
    left = [len(requests)]

    def serve(message: Message) -> None:
        one = exchange.for_message(message, next(wiring.exchange_ids))
        try:
            _serve_into(merged, one, wiring)
        except BaseException:
            merged.abort()
            raise
        left[0] -= 1
        if not left[0]:
            merged.end()

    for message in requests:
        wiring.world.spawn("batch call", partial(serve, message))
    return Response(200, stream=merged)


def _post_one(exchange: Exchange, wiring: Wiring) -> None:
    began_s, failure = wiring.world.now_s(), rescue.REFUSED
    try:
        exchange.route.forwarder.post(exchange)
        failure = ""
    except GatewayError as error:
        failure = rescue.failure_of(error)
        raise
    finally:
        seconds = wiring.world.now_s() - began_s
        count_message(exchange, failure, seconds)


def _serve_into(merged: Subscriber, exchange: Exchange, wiring: Wiring) -> None:
    began_s, failure, data = wiring.world.now_s(), "", b""
    try:
        response = exchange.route.forwarder.call(exchange)
        if response.stream is None:
            merged.push(data := response.body)
        else:
            for data in messages_of(str(response.stream), wiring):
                merged.push(data)
    except Exception as error:  # whatever it is, the message gets an answer
        known = rescue.classify(error, exchange.request_id)
        failure = rescue.failure_of(known)
        merged.push(rescue.message(known, exchange.message.id, exchange.request_id))
    seconds = wiring.world.now_s() - began_s
    count_message(exchange, failure or outcome(data), seconds)

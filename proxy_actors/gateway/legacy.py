"""The HTTP+SSE transport of 2024-11-05, in front of whatever upstream there is.

A client GETs a stream, is told there where to send its messages, and gets all answers on it
(2024-11-05 basic/transports, "HTTP with SSE"). Towards the upstream each of its messages is an
exchange like any other; only that the answer is left with the stream's subscriber, in the greenlet
that serves the message. Which session is whose, and when it ends, is decided by
`actors/legacy_stream.py`. The stream carries no event ids: it cannot be resumed.
"""

from __future__ import annotations

import logging
from functools import partial

from proxy_actors.actors.legacy_stream import unknown
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import DeadlineError, ProxyActorsError
from proxy_actors.gateway import apart, stack
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.relay import messages_of
from proxy_actors.gateway.response import ACCEPTED, Response
from proxy_actors.gateway.route import MESSAGES, SSE
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.legacy import (
    BeginRequests,
    EndRequest,
    LegacyStreamOpened,
    OpenLegacyStream,
    SessionOpened,
)
from proxy_actors.messages.sessions import BeginUse, EndReason, EndSession, EndUse
from proxy_actors.protocol.headers import first
from proxy_actors.protocol.jsonrpc import REQUEST, Message
from proxy_actors.protocol.revisions import INITIALIZED
from proxy_actors.protocol.sse import encode_event
from proxy_actors.world.base import Waiter

DECIDE_S_MAX = 1.0
LISTEN_S_MAX = 1.0

logger = logging.getLogger("proxy_actors.gateway")


def open_stream(exchange: Exchange, wiring: Wiring) -> Response:
    """Open a stream, on which its message endpoint is named first (MCP-L-1)."""
    for step in stack.STEPS_OF_SSE:
        step(exchange, wiring)
    ask = OpenLegacyStream(
        exchange.id, exchange.client.peer, exchange.principal, exchange.route.name
    )
    opened: LegacyStreamOpened = wiring.legacy.ask(ask, wiring.world.now_s() + DECIDE_S_MAX)
    uri = message_uri(exchange.accepted.head.path, opened.id)
    return Response(200, stream=opened.stream, prelude=encode_event(uri, event=b"endpoint"))


def message_uri(path: bytes, id: str) -> bytes:
    """Return the URI of a stream's message endpoint, relative to the path of the stream.

    A relative one leads back through whatever has led here: a prefix of the path, TLS, a port.
    """
    up = b"../" * (path.count(b"/") - SSE.value.count(b"/"))
    messages = path.replace(SSE.value, MESSAGES.value, 1).lstrip(b"/")
    return b"%b%b?%b=%b" % (up, messages, stack.STREAM_FIELD, id.encode("ascii"))


def post(exchange: Exchange, wiring: Wiring) -> Response:
    """Take what the client says: accepted, or refused and why; answers go to the stream.

    What is no request is accepted by the upstream first, in the order in which it came.
    """
    for step in stack.STEPS_OF_MESSAGES:
        step(exchange, wiring)
    exchange.parted = True
    subscriber = wiring.subscribers.find(exchange.found.subscriber_id)
    if subscriber is None:
        raise unknown()  # the client has left just now
    requests = [message for message in exchange.messages if message.kind is REQUEST]
    for message in exchange.messages:
        if message.kind is not REQUEST:
            apart.post(exchange.for_message(message, next(wiring.exchange_ids)), wiring)
            if message.method == INITIALIZED:
                _begin_listening(exchange, message, subscriber, wiring)
    if requests:
        _begin(exchange, requests, subscriber, wiring)
    return ACCEPTED


def _begin(
    exchange: Exchange, requests: list[Message], subscriber: Subscriber, wiring: Wiring
) -> None:
    """Have requests served, each in a greenlet of its own, once the stream has counted them.

    They hold their body for as long, which then is no longer their connection's to count.
    """
    stream, body_bytes = exchange.stream, len(exchange.request.body)
    left = len(requests)

    def serve(one: Exchange) -> None:
        nonlocal left
        forward = one.route.forwarder.call
        try:
            if one.opens_session:
                forward = partial(_open_session, wiring=wiring)
            apart.serve_into(subscriber, one, wiring, forward)
        finally:
            wiring.legacy_calls.leave(one)
            left -= 1
            if not left:
                wiring.bodies.change(-body_bytes)
            stream.tell(EndRequest(exchange.id))

    wiring.bodies.change(body_bytes)
    begun = False
    try:
        ask = BeginRequests(exchange.id, left, exchange.opens_session)
        stream.ask(ask, wiring.world.now_s() + DECIDE_S_MAX)
        begun = True
    finally:
        if not begun:
            wiring.bodies.change(-body_bytes)
            for _ in requests:
                stream.tell(EndRequest(exchange.id))
    for message in requests:
        one = exchange.for_message(message, next(wiring.exchange_ids))
        one.stream, one.found = stream, exchange.found
        wiring.legacy_calls.enter(one)
        wiring.world.spawn("legacy call", partial(serve, one))


def _open_session(exchange: Exchange, wiring: Wiring) -> Response:
    """Forward `initialize`, and have the stream hold the session that it opens.

    The stream uses it from then on, so that it does not expire while its client only listens.
    """
    response = exchange.route.forwarder.initialize(exchange)
    front_id = first(response.fields, b"mcp-session-id")
    if front_id is None:
        return response  # the server has refused
    id, key, use_id = front_id.decode("ascii"), exchange.in_session().key, exchange.found.use_id
    held = False
    try:
        deadline_s = wiring.world.now_s() + DECIDE_S_MAX
        wiring.registry.ask(BeginUse(id, exchange.principal, use_id), deadline_s)
        held = exchange.stream.ask(SessionOpened(id, key), deadline_s)
        return response
    finally:
        if not held:
            wiring.registry.tell(EndUse(exchange_id=use_id))
            wiring.registry.tell(EndSession(key, EndReason.DELETED))


def _begin_listening(
    exchange: Exchange, message: Message, subscriber: Subscriber, wiring: Wiring
) -> None:
    """Have what belongs to no request passed on, from the session's standalone stream.

    To the client its stream has been open all along: so that it misses nothing, it is not told that
    it is initialized before the upstream's stream stands, if that does not take long.
    """
    one = exchange.for_message(message, next(wiring.exchange_ids))
    opened = wiring.world.waiter()
    wiring.world.spawn("legacy listener", partial(_listen, one, opened, subscriber, wiring))
    try:
        opened.wait(wiring.world.now_s() + LISTEN_S_MAX)
    except DeadlineError:
        return  # some servers say nothing before they have something to say


def _listen(
    exchange: Exchange, opened: Waiter, subscriber: Subscriber, wiring: Wiring
) -> None:
    try:
        response = exchange.route.forwarder.open_standalone(exchange)
        opened.set()
        for data in messages_of(str(response.stream), exchange.in_session(), wiring):
            if not subscriber.push(data):
                break
    except ProxyActorsError as error:  # the server offers none, or the session has ended
        logger.debug("legacy_listener_ended request=%s error=%s", exchange.request_id, error)
    finally:
        opened.set()

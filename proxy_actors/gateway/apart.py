"""Serves a message apart from the HTTP exchange in which it came.

So are the messages of a batch, and those that are sent to the message endpoint of the old
transport. Each is counted by itself, and whatever goes wrong with one becomes its answer.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import GatewayError, let_go
from proxy_actors.gateway import rescue
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.metering import count_message, outcome
from proxy_actors.gateway.relay import messages_of
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.wiring import Wiring


def post(exchange: Exchange, wiring: Wiring) -> None:
    """Forward a notification or a response.

    Raises:
        ProxyActorsError: it was not accepted.
    """
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


def serve_into(
    subscriber: Subscriber,
    exchange: Exchange,
    wiring: Wiring,
    forward: Callable[[Exchange], Response],
) -> None:
    """Have a request answered, and leave all that comes of it with the subscriber.

    Args:
        forward: has it answered, in JSON or as a stream.
    """
    began_s, failure, data = wiring.world.now_s(), "", b""
    try:
        response = forward(exchange)
        if response.stream is None:
            subscriber.push(data := response.body)
        else:
            for data in messages_of(str(response.stream), exchange.in_session(), wiring):
                subscriber.push(data)
    except Exception as error:  # whatever it is, the message gets an answer
        known = rescue.classify(error, exchange.request_id)
        failure = rescue.failure_of(known)
        subscriber.push(rescue.message(known, exchange.message.id, exchange.request_id))
        let_go(error)
    seconds = wiring.world.now_s() - began_s
    count_message(exchange, failure or outcome(data), seconds)

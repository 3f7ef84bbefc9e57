"""A client that comes back to an event stream, with the id of the last event that it has seen.

What followed is in the stream's ring (MCP-S-16), or, where the stream's actor is no more because it
or the proxy had to begin anew, in the file of streams, if there is one. A call that had not ended
by then is replayed as far as it is known, and answered with an error: it may have been executed. A
standalone stream goes on with the one that the session has now, which is exact when that is the
first since.

Where what followed is not to be had, any more or at all: the rest of a call's answer cannot be had,
and the client is told so with 410, a status that neither ends its session (404) nor has it poll an
empty stream for ever; in place of a standalone stream it gets the one that stands now, or a new
one, since what happens from now on is all that is to be had.
"""

from __future__ import annotations

from proxy_actors.actors.stream_directory import CALL, STANDALONE, read_event_id, stream_id
from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.errors import (
    ActorStoppedError,
    Executed,
    FailedError,
    Reason,
    RefusedError,
    Side,
)
from proxy_actors.gateway.event_writer import encode
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.relay import Reader
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.stream_store import FoundStream
from proxy_actors.protocol.headers import first
from proxy_actors.protocol.jsonrpc import answered_id

READ_S_MAX = 10.0


def resume(exchange: Exchange, wiring: Wiring) -> Response | None:
    """Return what followed the Last-Event-ID of a GET, if it names one.

    None means that the session's standalone stream is what the client is to get.

    Raises:
        RefusedError: 410, what followed cannot be had.
    """
    value = first(exchange.accepted.head.fields, b"last-event-id")
    named = None if value is None else read_event_id(value)
    if named is None or not named[0].startswith((CALL, STANDALONE)):
        return None
    id, number = named
    slot, meters = wiring.streams.find_by_id(id), wiring.meters.streams
    response: Response | None = None
    try:
        if slot is not None:
            reader = Reader(slot.name, wiring, exchange.in_session(), number)
            meters.replayed += reader.subscriber.unread
            response = Response(200, stream=reader)
    except (ActorStoppedError, RefusedError):
        pass
    if slot is None:
        response = _resume_stored(id, number, exchange, wiring)
    if response is not None:
        meters.resumed += 1
        return response
    meters.gone += 1
    if id.startswith(CALL):
        raise RefusedError(410, "what followed this event is not here any more")
    return None


def _resume_stored(
    id: str, number: int, exchange: Exchange, wiring: Wiring
) -> Response | None:
    """Return what followed, as far as it is written down; None where that is not all."""
    store = wiring.streams.store
    if store is None:
        return None
    waiter = wiring.world.waiter()
    store.read(id, number, waiter.set)
    found: FoundStream | None = waiter.wait(wiring.world.now_s() + READ_S_MAX)
    if found is None or found.events is None:
        return None
    if found.stream.session_key != exchange.in_session().key:
        return None
    wiring.meters.streams.replayed += len(found.events)
    if id.startswith(CALL):
        return _rest_of_call(found, number, exchange, wiring)
    return _go_on(found, number, exchange, wiring)


def _rest_of_call(
    found: FoundStream, number: int, exchange: Exchange, wiring: Wiring
) -> Response | None:
    events, request_id = list(found.events or ()), found.stream.request_id
    if answered_id(found.newest) != request_id:
        # Also where the client has seen more than was written down: the rest of it is not known.
        text = "the proxy had to begin anew before the call had ended"
        error = FailedError(
            Reason.INTERNAL, text, executed=Executed.UNKNOWN, side=Side.PROXY
        )
        events.append(exchange.route.forwarder.failure(exchange.id, request_id, error))
    if not events:
        return None
    return Response(200, stream=_reader(found, events, number, exchange, wiring))


def _go_on(
    found: FoundStream, number: int, exchange: Exchange, wiring: Wiring
) -> Response:
    """Replay a standalone stream, and go on with the one that the session has now."""
    session, events = exchange.in_session(), list(found.events or ())
    response = exchange.route.forwarder.open_standalone(exchange)
    assert isinstance(response.stream, str)
    follows = found.next in ("", stream_id(response.stream))
    try:
        reader = Reader(response.stream, wiring, session, 0 if follows else None)
    except RefusedError:
        reader = Reader(response.stream, wiring, session)
    wiring.meters.streams.sent += len(events)
    prelude = encode(events, found.stream.id, number)
    return Response(200, response.fields, stream=reader, prelude=prelude)


def _reader(
    found: FoundStream, events: list[bytes], number: int, exchange: Exchange, wiring: Wiring
) -> Reader:
    """Return a reader of these events, which follow the one of this number."""
    subscriber = Subscriber(wiring.world, wiring.streams.limits)
    subscriber.leave_all(events)
    reader = Reader(subscriber, wiring, exchange.in_session())
    reader.stream_id, reader.after = found.stream.id, number
    return reader

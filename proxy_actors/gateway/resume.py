"""A client that comes back to an event stream, with the id of the last event that it has seen.

What followed is in the stream's ring (MCP-S-16). Where it is not, any more or at all: the rest of a
call's answer cannot be had, and the client is told so with 410, a status that neither ends its
session (404) nor has it poll an empty stream for ever; in place of a standalone stream it gets the
one that stands now, or a new one, since what happens from now on is all that is to be had.
"""

from __future__ import annotations

from proxy_actors.actors.stream_directory import CALL, STANDALONE, read_event_id
from proxy_actors.errors import ActorStoppedError, RefusedError
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.relay import Reader
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.protocol.headers import first


def resume(exchange: Exchange, wiring: Wiring) -> Reader | None:
    """Return a reader of what followed the Last-Event-ID of a GET, if it names one.

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
    try:
        if slot is not None:
            reader = Reader(slot.name, wiring, exchange.in_session(), number)
            meters.resumed += 1
            meters.replayed += reader.subscriber.unread
            return reader
    except (ActorStoppedError, RefusedError):
        pass
    meters.gone += 1
    if id.startswith(CALL):
        raise RefusedError(410, "what followed this event is not here any more")
    return None

"""Sends requests to an HTTP upstream, each on a connection of its pool.

Owns the one case in which a request is sent twice. Never reads more of an answer than its head,
save for requests of the proxy's own.
"""

from __future__ import annotations

import itertools

import msgspec

from proxy_actors.actors.meters import CallMeter
from proxy_actors.errors import FailedError, ProxyActorsError, Reason
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.lease import (
    IDLE_REPEATABLE_S_MAX,
    IDLE_S_MAX,
    IDLE_S_NEW,
    Keeper,
    Pool,
)
from proxy_actors.messages.pool import NOBODY, Owner, Purpose
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.protocol.http1_write import request_head
from proxy_actors.world.base import World


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A request to the upstream.

    Attributes:
        exchange_id: whose it is; below 0 for one of the proxy's own.
        parts: what is written, in order.
        purpose: what budget its connection is drawn from.
        request_id: the raw JSON id that its answer will carry; None when there is none.
        repeatable: whether sending it twice does no harm.
        sent_as: the raw JSON id that it has at the upstream, if that is another one.
        keeper: keeps the connection for the next exchange.
        meter: where its times are counted.
        asker: the client's exchange whose share the connection comes out of; None for the proxy's
            own, and for what must never wait behind calls.
        owner: whose share it is, where no exchange asks.
    """

    exchange_id: int
    method: bytes
    parts: list[bytes]
    purpose: Purpose
    deadline_s: float
    request_id: bytes | None = None
    repeatable: bool = False
    keeper: Keeper | None = None
    meter: CallMeter | None = None
    asker: Exchange | None = None
    sent_as: bytes | None = None
    owner: Owner = NOBODY


class HttpSender:
    """Sends to one upstream.

    Args:
        target: of the requests of the proxy's own.
    """

    def __init__(self, world: World, pool: Pool, target: bytes, limits: HttpLimits) -> None:
        self._world = world
        self._pool = pool
        self._target = target
        self._limits = limits
        self._own_ids = itertools.count(1)

    def next_own_id(self) -> int:
        """Mint the id of an exchange of the proxy's own."""
        return -next(self._own_ids)

    def send(self, outgoing: Outgoing) -> tuple[HttpExchange, ResponseHead]:
        """Send a request and read the head of its answer.

        The upstream may close an idle connection just as a request leaves on it. What can be
        repeated is then sent once more, on a new connection (RFC 9112 section 9.3.1). What is sent
        again already, since it has failed, has a new one from the start.

        Raises:
            FailedError: there is no connection to be had, or the exchange failed.
        """
        asker, repeatable = outgoing.asker, outgoing.repeatable
        if asker is not None and asker.tries:
            upstream = self.begin(outgoing, IDLE_S_NEW)
            return upstream, upstream.send(outgoing.parts, outgoing.deadline_s)
        upstream = self.begin(outgoing, IDLE_REPEATABLE_S_MAX if repeatable else IDLE_S_MAX)
        try:
            return upstream, upstream.send(outgoing.parts, outgoing.deadline_s)
        except FailedError as found_closed:
            closed = found_closed.reason is Reason.UPSTREAM_CLOSED and upstream.found_closed
            if not repeatable or not closed:
                raise
            try:
                upstream = self.begin(outgoing, IDLE_S_NEW)
            except ProxyActorsError as error:
                raise found_closed from error  # which says that it may have been executed
            upstream.repeats = True
            return upstream, upstream.send(outgoing.parts, outgoing.deadline_s)

    def own_parts(self, method: bytes, fields: Fields, body: bytes) -> list[bytes]:
        """Return what is written for a request of the proxy's own."""
        return [request_head(method, self._target, fields), body]

    def send_own(
        self, method: bytes, fields: Fields, body: bytes = b"", s_max: float = HEAD_S_MAX
    ) -> None:
        """Send a request of the proxy's own, whose answer does not matter."""
        parts, deadline_s = self.own_parts(method, fields, body), self._world.now_s() + s_max
        outgoing = Outgoing(self.next_own_id(), method, parts, Purpose.RESERVED, deadline_s)
        try:
            upstream, _ = self.send(outgoing)
            upstream.body(deadline_s)
        except ProxyActorsError:
            return  # the upstream forgets sessions, and finishes calls, without being told too

    def begin(self, outgoing: Outgoing, idle_s_max: float = IDLE_S_MAX) -> HttpExchange:
        """Get a connection for a request, which is yet to be sent.

        Args:
            idle_s_max: how long it may have been idle; below 0 for a new one.

        Raises:
            FailedError: there is none to be had; nothing was sent.
        """
        pool, keeper, meter = self._pool, outgoing.keeper, outgoing.meter
        lease = None if keeper is None else keeper.take(pool, idle_s_max)
        if lease is None:
            began_s, asker = self._world.now_s(), outgoing.asker
            lease = pool.checkout(
                outgoing.exchange_id, outgoing.purpose, began_s, outgoing.deadline_s,
                idle_s_max, keeper, outgoing.owner if asker is None else asker.owner,
            )
            if meter is not None:
                meter.queue.add(self._world.now_s() - began_s)
        upstream = HttpExchange(
            self._world, lease, outgoing.method, self._limits, pool.upstream,
            outgoing.exchange_id, outgoing.request_id, meter,
        )
        if outgoing.sent_as is not None:
            upstream.sent_as = outgoing.sent_as
        return upstream

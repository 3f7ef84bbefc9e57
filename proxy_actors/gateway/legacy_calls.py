"""The requests that are being served for streams of the HTTP+SSE transport.

Owns who they are, so that they can be cancelled when their stream ends, and awaited in a hand-over,
and nothing of what becomes of them. `gateway/legacy.py` keeps it; the actor of a stream calls upon
it. It outlives the listener's actor, as `client_table.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from proxy_actors.actors.legacy_stream import LegacyTasks
from proxy_actors.errors import ProxyActorsError
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.world.base import World


class LegacyCalls(LegacyTasks):
    """The exchanges by their streams.

    Args:
        exchange_ids: mints ids.
    """

    def __init__(self, world: World, exchange_ids: Iterator[int]) -> None:
        self._world = world
        self._exchange_ids = exchange_ids
        self._by_stream: dict[str, dict[int, Exchange]] = {}
        self._on_answered: Callable[[], object] | None = None

    def enter(self, exchange: Exchange) -> None:
        """List a request; whoever does must `leave` at its end."""
        self._by_stream.setdefault(exchange.stream.name, {})[exchange.id] = exchange

    def leave(self, exchange: Exchange) -> None:
        """Forget a request."""
        of_stream = self._by_stream[exchange.stream.name]
        del of_stream[exchange.id]
        if not of_stream:
            del self._by_stream[exchange.stream.name]
        if not self._by_stream and self._on_answered is not None:
            self._on_answered()

    def begin_hand_over(self, on_answered: Callable[[], object]) -> None:
        """Await the requests that are being served, also those that begin from now on.

        What their servers ask is answered on connections of its own, which must come here.

        Args:
            on_answered: called whenever the last that is being served has been answered.
        """
        self._on_answered = on_answered

    def cancel(self, stream: str) -> None:
        """Tell the server that no request of this stream's is wanted any more (MCP-L-5)."""
        for exchange in self._by_stream.get(stream, {}).values():
            if not exchange.opens_session:  # which is never cancelled (MCP-S-25)
                self._world.spawn("legacy cancel", partial(self._cancel, exchange))

    def _cancel(self, exchange: Exchange) -> None:
        assert exchange.message.id is not None
        reason = "the client has left"
        message = jsonrpc.admit(jsonrpc_rewrite.cancelled(exchange.message.id, reason))
        assert isinstance(message, Message)
        try:
            exchange.route.forwarder.post(exchange.for_message(message, next(self._exchange_ids)))
        except ProxyActorsError:
            return  # the session's end is told to the server as well

    def __len__(self) -> int:
        return len(self._by_stream)

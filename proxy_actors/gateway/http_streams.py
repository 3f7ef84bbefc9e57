"""Event streams of an HTTP upstream: how they are opened, opened anew, and handed to an actor.

Owns the sources on their way from an exchange to a stream's actor. What is done about a session
that the upstream does not know (any more) is the forwarder's to say.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import FailedError, Reason, StreamsFullError
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_answers import HttpAnswers
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_fields import Forwarded, UpstreamFields
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.gateway.http_source import HttpSource, Reopen
from proxy_actors.messages.http_upstream import OpenCallStream, OpenStandaloneStream
from proxy_actors.messages.pool import Purpose
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.world.base import World

DECIDE_S_MAX = 1.0

Lost = Callable[[Session, FailedError, float], Session]
"""Opens a session anew that the upstream does not know, by a deadline; or raises the error."""


class HttpStreams:
    """The event streams of one upstream.

    Args:
        slot: the upstream's actor.
        silence_s_max: how long a stream that can be opened anew may be silent.
        lost: what is done about a lost session.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        sender: HttpSender,
        fields: UpstreamFields,
        answers: HttpAnswers,
        silence_s_max: float,
        lost: Lost,
    ) -> None:
        self._world = world
        self._slot = slot
        self._sender = sender
        self._fields = fields
        self._answers = answers
        self._silence_s_max = silence_s_max
        self._lost = lost
        self._sources: dict[int, EventSource] = {}

    def __len__(self) -> int:
        """How many sources are on their way."""
        return len(self._sources)

    def take_source(self, exchange_id: int) -> EventSource | None:
        """Hand a source over to its stream's actor, if it is still to be had."""
        return self._sources.pop(exchange_id, None)

    def of_call(
        self,
        exchange: Exchange,
        session: Session,
        upstream: HttpExchange,
        on_cancel: Callable[[], None],
    ) -> str:
        """Hand the answer to a call over to a stream's actor; return the stream's name.

        Raises:
            StreamsFullError: it may have none; the exchange is still the caller's.
        """
        message = exchange.message
        assert message.id is not None
        ask = OpenCallStream(
            exchange.id, session.key, message.id, exchange.deadline_s, session.principal
        )
        return self._hand_over(exchange, session, upstream, ask, on_cancel)

    def standalone(self, exchange: Exchange, session: Session) -> tuple[str, ResponseHead]:
        """Open the session's standalone stream; return its name, and the upstream's head.

        Raises:
            RefusedError, FailedError: the upstream did not open it.
        """
        upstream, head = self._open(exchange.accepted.forwarded, session, exchange.id)
        ask = OpenStandaloneStream(exchange.id, session.key, session.principal)
        return self._hand_over(exchange, session, upstream, ask), head

    def _hand_over(
        self,
        exchange: Exchange,
        session: Session,
        upstream: HttpExchange,
        ask: OpenCallStream | OpenStandaloneStream,
        on_cancel: Callable[[], None] | None = None,
    ) -> str:
        """Offer a source to the upstream's actor, and take it back if nobody took it."""
        reopen = self._reopener(exchange.accepted.forwarded, session, upstream.request_id)
        source = HttpSource(upstream, reopen, self._silence_s_max, on_cancel)
        self._sources[exchange.id] = source
        try:
            return str(self._slot.ask(ask, self._world.now_s() + DECIDE_S_MAX))
        except StreamsFullError:
            if isinstance(ask, OpenCallStream):
                del self._sources[exchange.id]  # it goes on without a stream
            raise
        finally:
            if self._sources.pop(exchange.id, None) is not None:
                source.close(cancel=False)

    def _reopener(
        self, forwarded: Forwarded, session: Session, request_id: bytes | None
    ) -> Reopen:
        """Return what opens a stream anew; it keeps nothing of the request but its fields."""

        def reopen(last_event_id: bytes) -> HttpExchange:
            nonlocal session
            id = self._sender.next_own_id()
            try:
                return self._open(
                    forwarded, session, id, request_id, last_event_id, self._silence_s_max
                )[0]
            except FailedError as error:
                if error.reason is not Reason.SESSION_LOST:
                    raise
                session = self._lost(session, error, self._world.now_s() + HEAD_S_MAX)
                if request_id is not None:
                    raise  # no other session has the answer
            return self._open(forwarded, session, self._sender.next_own_id())[0]

        return reopen

    def _open(
        self,
        forwarded: Forwarded,
        session: Session,
        exchange_id: int,
        request_id: bytes | None = None,
        last_event_id: bytes = b"",
        silence_s_max: float = HEAD_S_MAX,
    ) -> tuple[HttpExchange, ResponseHead]:
        """GET a stream: the session's standalone one, or what follows an event.

        Args:
            request_id: the raw JSON id of the request whose answer it carries, if it does.
            silence_s_max: how long nothing may come, the head neither.
        """
        deadline_s = self._world.now_s() + min(silence_s_max, HEAD_S_MAX)
        parts = [self._fields.head_of_get(forwarded, session, last_event_id)]
        upstream, head = self._sender.send(
            Outgoing(exchange_id, b"GET", parts, Purpose.STREAM, deadline_s, request_id)
        )
        if head.status != 200 or not upstream.is_event_stream:
            fault = self._answers.admitted(upstream, upstream.body(deadline_s))
            raise self._answers.refusal(head, session, fault, opens_stream=True)
        return upstream, head

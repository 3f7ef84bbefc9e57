"""Event streams of an HTTP upstream: how they are opened, opened anew, and handed to an actor.

Owns the sources on their way from an exchange to a stream's actor. What is done about a session
that the upstream does not know (any more) is the forwarder's to say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from proxy_actors.actors.event_stream import EventSource
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import FailedError, Reason, RefusedError, StreamsFullError
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_answers import HttpAnswers
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.gateway.http_fields import Forwarded, UpstreamFields
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.gateway.http_source import HttpSource
from proxy_actors.gateway.upstream_status import session_lost
from proxy_actors.messages.http_upstream import OpenCallStream, OpenStandaloneStream
from proxy_actors.messages.pool import Owner, Purpose
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.world.base import World

DECIDE_S_MAX = 1.0


class Sessions(ABC):
    """What is known of sessions; the forwarder's."""

    @abstractmethod
    def present(self, session: Session) -> Session:
        """Return a session as it is now.

        Raises:
            FailedError: it has ended.
        """

    @abstractmethod
    def renewed(self, session: Session, deadline_s: float) -> Session | None:
        """Return a session that the upstream does not know, opened anew; None where it has ended.

        Raises:
            FailedError: it was not opened anew.
        """


class HttpStreams:
    """The event streams of one upstream.

    Args:
        slot: the upstream's actor.
        silence_s_max: how long a stream that can be opened anew may be silent.
        sessions: what they are by now.

    Attributes:
        on_tools_changed: hears that the server's list of tools is another, if anybody does.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        sender: HttpSender,
        fields: UpstreamFields,
        answers: HttpAnswers,
        silence_s_max: float,
        sessions: Sessions,
    ) -> None:
        self._world = world
        self._slot = slot
        self._sender = sender
        self._fields = fields
        self._answers = answers
        self.upstream = answers.upstream
        self._silence_s_max = silence_s_max
        self._sessions = sessions
        self._sources: dict[int, EventSource] = {}
        self.on_tools_changed: Callable[[], None] | None = None

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
            exchange.id, session.key, message.id, exchange.deadline_s, exchange.owner.name
        )
        return self._hand_over(exchange, session, upstream, ask, on_cancel)

    def standalone(self, exchange: Exchange, session: Session) -> tuple[str, ResponseHead]:
        """Open the session's standalone stream; return its name, and the upstream's head.

        Raises:
            RefusedError, FailedError: the upstream did not open it.
        """
        upstream, head = self.open(
            exchange.accepted.forwarded, session, exchange.owner, exchange.id
        )
        ask = OpenStandaloneStream(exchange.id, session.key, exchange.owner.name)
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
        reopen = _Reopener(
            self, self._sessions, exchange.accepted.forwarded, session, exchange.owner,
            upstream.request_id, upstream.sent_as,
        )
        source = HttpSource(
            self._world, upstream, reopen, self._silence_s_max, on_cancel,
            self.on_tools_changed,
        )
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

    def open_anew(
        self,
        forwarded: Forwarded,
        session: Session,
        owner: Owner,
        request_id: bytes | None,
        last_event_id: bytes,
        sent_as: bytes | None = None,
    ) -> HttpExchange:
        """GET what follows an event. Raises as `open`."""
        own_id = self._sender.next_own_id()
        deadline_s = self._world.now_s() + min(self._silence_s_max, HEAD_S_MAX)
        upstream, _ = self.open(
            forwarded, session, owner, own_id, request_id, last_event_id, deadline_s, sent_as
        )
        return upstream

    def open(
        self,
        forwarded: Forwarded,
        session: Session,
        owner: Owner,
        exchange_id: int,
        request_id: bytes | None = None,
        last_event_id: bytes = b"",
        deadline_s: float = math.inf,
        sent_as: bytes | None = None,
    ) -> tuple[HttpExchange, ResponseHead]:
        """GET a stream: the session's standalone one, or what follows an event.

        Args:
            owner: whose share of the upstream's streams it comes out of.
            request_id: the raw JSON id of the request whose answer it carries, if it does.
            sent_as: the id that this has at the upstream, if that is another one.

        Raises:
            RefusedError: the upstream does not offer it, or not any more.
            FailedError: it did not open it.
        """
        deadline_s = min(deadline_s, self._world.now_s() + HEAD_S_MAX)
        parts = [self._fields.head_of_get(forwarded, session, last_event_id)]
        upstream, head = self._sender.send(
            Outgoing(
                exchange_id, b"GET", parts, Purpose.STREAM, deadline_s, request_id,
                sent_as=sent_as, owner=owner,
            )
        )
        upstream.resumed_after = last_event_id
        if head.status == 204:  # as the standard says it to clients (RELIABILITY 2.2, S10)
            upstream.body(deadline_s)
            raise RefusedError(405, "the upstream has ended this stream")
        if head.status != 200 or not upstream.is_event_stream:
            fault = self._answers.admitted(upstream, upstream.body(deadline_s))
            raise self._answers.refusal(head, session, fault, opens_stream=True)
        return upstream, head


class _Reopener:
    """Opens one stream anew. It keeps of the client's request its fields, its id and its owner."""

    def __init__(
        self,
        streams: HttpStreams,
        sessions: Sessions,
        forwarded: Forwarded,
        session: Session,
        owner: Owner,
        request_id: bytes | None,
        sent_as: bytes | None,
    ) -> None:
        self._streams = streams
        self._sessions = sessions
        self._forwarded = forwarded
        self._session = session
        self._owner = owner
        self._request_id = request_id
        self._sent_as = sent_as

    def __call__(self, last_event_id: bytes) -> HttpExchange:
        present = self._sessions.present(self._session)
        if present.place != self._session.place:
            return self._begin(present)
        try:
            return self._streams.open_anew(
                self._forwarded, present, self._owner, self._request_id, last_event_id,
                self._sent_as,
            )
        except FailedError as error:
            if error.reason is not Reason.SESSION_LOST:
                raise
            renewed = self._sessions.renewed(present, math.inf)
            if renewed is None or self._request_id is not None:  # see `_begin`
                raise
            return self._begin(renewed)

    def _begin(self, session: Session) -> HttpExchange:
        """Begin the stream of another session: what was to follow in the one before is lost."""
        if self._request_id is not None:  # no other session has the answer
            raise session_lost(self._streams.upstream)
        self._session = session
        return self._streams.open_anew(self._forwarded, session, self._owner, None, b"")

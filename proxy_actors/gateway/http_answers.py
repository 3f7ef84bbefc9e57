"""Reads what an HTTP upstream answered to one message, and says what a refusal means.

Whatever form an answer has, JSON or an event stream or a refusal with a JSON-RPC error in its body,
its message is found here. It decides nothing about the session: one that the upstream does not know
is an error with the reason SESSION_LOST, and the forwarder's to mend.
"""

from __future__ import annotations

from proxy_actors.errors import Executed, FailedError, Reason, RefusedError, let_go
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.forwarder import SILENT_S_MAX
from proxy_actors.gateway.http_exchange import HttpExchange
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.world.base import World


class HttpAnswers:
    """Reads the answers of one upstream."""

    def __init__(self, world: World, upstream: str) -> None:
        self._world = world
        self.upstream = upstream

    def answer(
        self,
        exchange: HttpExchange,
        head: ResponseHead,
        deadline_s: float,
        session: Session | None,
    ) -> jsonrpc.Message:
        """Read the answer to a request, up to its final message, whatever form it has.

        Raises:
            RefusedError, FailedError: there is none.
        """
        if head.status == 200 and exchange.is_event_stream:
            while True:
                message = exchange.next_message(deadline_s)
                if exchange.is_final(message):
                    self.finish(exchange)
                    return message
        if head.status == 200:
            return exchange.answer(deadline_s)
        found = self.admitted(exchange, exchange.body(deadline_s))
        if found is not None and exchange.is_final(found):
            # Made anew below: kept here, it would hold this frame and be held by it.
            if _is_verdict(self.refusal(head, session, found)):
                return found  # the application itself has answered
        raise self._refused(exchange, head, session, found)

    def _refused(
        self,
        exchange: HttpExchange,
        head: ResponseHead,
        session: Session | None,
        found: jsonrpc.Message | None,
    ) -> FailedError | RefusedError:
        error = self.refusal(head, session, found)
        error.bare_status = head.status if found is None else None
        if exchange.repeats:
            error.executed = Executed.UNKNOWN  # what is refused now may have been done before
        return error

    def first_message(self, exchange: HttpExchange, deadline_s: float) -> jsonrpc.Message | None:
        """Wait for the first message of an event stream, for a while.

        Raises:
            FailedError: the stream broke, and the upstream named no place to go on from.
        """
        try:
            return exchange.first_message(min(self._world.now_s() + SILENT_S_MAX, deadline_s))
        except FailedError as error:
            if error.reason is not Reason.UPSTREAM_CLOSED or not exchange.events.last_event_id:
                raise
            let_go(error)  # the stream goes on knowing it
            return None

    def admitted(self, exchange: HttpExchange, body: bytes) -> jsonrpc.Message | None:
        """Return the one message of a refusal's body, if that is what it is."""
        try:
            messages = exchange.admit(body)
        except FailedError:
            return None
        return messages[0] if len(messages) == 1 else None

    def finish(self, exchange: HttpExchange) -> None:
        """See to the end of an answered event stream without keeping the client waiting."""
        if exchange.complete:
            exchange.finish()
        else:
            self._world.spawn("answer tail", exchange.finish)

    def refusal(
        self,
        head: ResponseHead,
        session: Session | None,
        message: jsonrpc.Message | None = None,
        opens_stream: bool = False,
    ) -> FailedError | RefusedError:
        """Say what a status other than success means."""
        if session is not None and upstream_status.ends_session(head, session, message):
            return upstream_status.session_lost(self.upstream)
        return upstream_status.refusal(head, self.upstream, message, opens_stream)


def _is_verdict(error: FailedError | RefusedError) -> bool:
    """Whether a refusal may be the application's own."""
    return isinstance(error, RefusedError) or error.reason is Reason.UPSTREAM_PROTOCOL

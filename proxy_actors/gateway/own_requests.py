"""What the proxy says to an HTTP upstream in its own name, and what it is answered.

Its connections are drawn from what is reserved, so that it never waits behind calls.
"""

from __future__ import annotations

import itertools

from proxy_actors.gateway.forwarder import HEAD_S_MAX
from proxy_actors.gateway.http_answers import HttpAnswers
from proxy_actors.gateway.http_fields import UpstreamFields
from proxy_actors.gateway.http_send import HttpSender, Outgoing
from proxy_actors.messages.pool import Purpose
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_write import request_head


class OwnRequests:
    """The proxy's own requests to one upstream."""

    def __init__(
        self, sender: HttpSender, fields: UpstreamFields, answers: HttpAnswers
    ) -> None:
        self.sender = sender
        self.upstream = answers.upstream
        self._fields = fields
        self._answers = answers
        self._ids = itertools.count(1)

    def ask(
        self, method: str, params: object, session: Session | None, deadline_s: float
    ) -> tuple[jsonrpc.Message, Fields]:
        """Send a request that may be sent twice; return its answer and the answer's fields.

        Raises:
            RefusedError, FailedError: there is no answer.
        """
        id = b'"proxy-actors-%d"' % next(self._ids)
        body = jsonrpc_rewrite.request(id, method, params)
        parts = self.sender.own_parts(b"POST", self._of(session, body), body)
        outgoing = Outgoing(
            self.sender.next_own_id(), b"POST", parts, Purpose.RESERVED, deadline_s, id,
            repeatable=True,
        )
        upstream, head = self.sender.send(outgoing)
        return self._answers.answer(upstream, head, deadline_s, session), head.fields

    def notify(self, method: str, session: Session) -> None:
        """Send a notification, whose fate does not matter."""
        body = jsonrpc_rewrite.notification(method)
        self.sender.send_own(b"POST", self._of(session, body), body)

    def delete(self, session: Session, s_max: float = HEAD_S_MAX) -> None:
        """End the upstream's session, if it has one; its answer does not matter."""
        if session.upstream_session_id is not None:
            self.sender.send_own(b"DELETE", self._of(session, b""), s_max=s_max)

    def get(self, path: bytes, deadline_s: float) -> int:
        """GET a path that is none of MCP's; return the status of the answer.

        Raises:
            FailedError: there is none.
        """
        parts = [request_head(b"GET", path, self._fields.own(None, ""))]
        outgoing = Outgoing(
            self.sender.next_own_id(), b"GET", parts, Purpose.RESERVED, deadline_s,
            repeatable=True,
        )
        upstream, head = self.sender.send(outgoing)
        upstream.body(deadline_s)
        return head.status

    def _of(self, session: Session | None, body: bytes) -> Fields:
        if session is None:
            return self._fields.own(None, "", len(body))
        return self._fields.own(session.upstream_session_id, session.version, len(body))

"""The event stream of an HTTP upstream on one connection: bytes of the body to messages.

Owns the decoder, the messages that nobody has taken yet, and what is known of the stream. Never
reads: `HttpExchange` feeds it, and whoever drives the exchange takes from it.
"""

from __future__ import annotations

import logging

from proxy_actors.errors import Executed, FailedError, MessageError, Reason
from proxy_actors.gateway.exchange import request_name
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.sse import SseDecoder

EVENT_BYTES_MAX = 16 * 1024 * 1024

logger = logging.getLogger("proxy_actors.http")


class UpstreamEvents:
    """Decodes one connection's part of an event stream.

    Args:
        upstream: the upstream's name, for errors.
        exchange_id: whose stream it is, for the log.
        request_id: the raw JSON id that the final answer will carry; None when there is none.
        after: the id behind which the stream was opened, empty for its beginning.
        sent_as: the raw JSON id that the request has at the upstream, if that is another one.
    """

    __slots__ = (
        "_decoder", "_exchange_id", "_request_id", "_sent_as", "_upstream", "dropped",
        "dropped_error", "failure", "heard", "placed", "unread",
    )  # fmt: skip

    def __init__(
        self,
        upstream: str,
        exchange_id: int,
        request_id: bytes | None,
        after: bytes,
        sent_as: bytes | None = None,
    ) -> None:
        self._upstream = upstream
        self._exchange_id = exchange_id
        self._request_id = request_id
        self._sent_as = sent_as
        self._decoder = SseDecoder(EVENT_BYTES_MAX, after)
        self.unread: tuple[jsonrpc.Message, ...] = ()
        """Messages that are to be taken."""
        self.failure: FailedError | None = None
        """Why no more of the stream can be read, when what came before has been."""
        self.heard = self.placed = False
        """Whether any event with data has come, and any that says where the stream is."""
        self.dropped = 0
        """How many events were no message, and were left out."""
        self.dropped_error: FailedError | None = None
        """Why the latest event was dropped; it may have been meant as the answer."""

    @property
    def last_event_id(self) -> bytes:
        """The id of the last event that came whole, here or before; empty where there is none."""
        return self._decoder.last_event_id

    @property
    def retry_ms(self) -> int | None:
        """How long the upstream asks to be left alone before its stream is opened anew."""
        return self._decoder.retry_ms

    def feed(self, data: bytes) -> None:
        """Decode a part of the body. What goes wrong is the `failure`."""
        decoder = self._decoder
        for event in decoder.feed(data):
            if event.id:
                self.placed = True
            if event.data:
                self.heard = True
                if event.event == b"message" and not self._take(event.data):
                    return
        if decoder.overflowed:
            self.failure = self._failed("an event of the upstream is too large")

    def take(self) -> tuple[jsonrpc.Message, ...]:
        """Take what is unread."""
        messages, self.unread = self.unread, ()
        return messages

    def _take(self, data: bytes) -> bool:
        """Take the messages of an event. What is none is dropped, and the call goes on.

        False when it was meant to be the answer: no other will come.
        """
        try:
            admitted = jsonrpc.admit(data)
        except MessageError as error:
            return self._drop(data, error)
        messages = admitted if isinstance(admitted, tuple) else (admitted,)
        self.unread += renamed(messages, self._sent_as, self._request_id)
        if self.dropped_error is not None:
            self.dropped_error = None
        return True

    def _drop(self, data: bytes, cause: MessageError) -> bool:
        error = self._failed(f"the upstream sent no valid JSON-RPC: {cause.text}")
        error.__cause__ = cause
        id = self._sent_as or self._request_id
        if id is not None and jsonrpc.answered_id(data) == id:
            self.failure = error
            return False
        self.dropped_error = error
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # a flood is told as often as it doubles
            logger.warning(
                "event_dropped upstream=%s request=%s count=%d error=%s",
                self._upstream, request_name(self._exchange_id), self.dropped, error.text,
            )
        return True

    def _failed(self, text: str) -> FailedError:
        return FailedError(
            Reason.UPSTREAM_PROTOCOL, text, executed=Executed.UNKNOWN, upstream=self._upstream
        )


def renamed(
    messages: tuple[jsonrpc.Message, ...], sent_as: bytes | None, request_id: bytes | None
) -> tuple[jsonrpc.Message, ...]:
    """Give an answer the id that the client knows, where its request was sent under another."""
    if sent_as is None or request_id is None:
        return messages
    return tuple(
        _with_id(x, request_id) if x.kind is jsonrpc.RESPONSE and x.id == sent_as else x
        for x in messages
    )


def _with_id(message: jsonrpc.Message, id: bytes) -> jsonrpc.Message:
    admitted = jsonrpc.admit(jsonrpc_rewrite.with_id(message, id))
    assert isinstance(admitted, jsonrpc.Message)
    return admitted

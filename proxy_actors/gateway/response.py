"""What the proxy is about to answer a client with, before it is bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxy_actors.actors.subscriber import Subscriber
from proxy_actors.protocol.headers import Fields

if TYPE_CHECKING:
    from proxy_actors.gateway.relay import Reader

JSON = (b"content-type", b"application/json")
JSON_FIELDS: Fields = [JSON]


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer: with a body, or with the event stream of that name or with its reader.

    `prelude` is what the stream begins with, as it is written. `close` says that the connection
    ends after it, `failure` what went wrong, where this tells so.
    """

    status: int
    fields: Fields = []
    body: bytes = b""
    stream: str | Subscriber | Reader | None = None
    close: bool = False
    failure: str = ""
    prelude: bytes = b""


def json_response(body: bytes, fields: Fields | None = None, status: int = 200) -> Response:
    """Make an answer of one JSON text."""
    return Response(status, [JSON, *fields] if fields else JSON_FIELDS, body)


ACCEPTED = Response(202)

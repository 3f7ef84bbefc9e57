"""One request of a client on its way through the stack: what is known of it so far.

An exchange is an object and not a stack frame: the steps of `gateway/stack.py` fill it in, and
whoever forwards it finds everything here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxy_actors.errors import RefusedError
from proxy_actors.gateway.http_fields import Forwarded
from proxy_actors.gateway.keys import ANONYMOUS, DEFAULT_TIER, Identity
from proxy_actors.gateway.lease import Keeper
from proxy_actors.gateway.session_use import SessionHolder
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.http1_request import Request, RequestHead
from proxy_actors.protocol.jsonrpc import Kind, Message

if TYPE_CHECKING:
    from proxy_actors.gateway.limits import AddressTokens
    from proxy_actors.gateway.route import Route


class AcceptedHead(msgspec.Struct, frozen=True):
    """A head that has passed the checks, and what of it matters; made once while it repeats.

    Attributes:
        route: the upstream that its path leads to; None for a page of the proxy's own.
        forwarded: the client's fields that may pass to an upstream (HTTP-F1).
        version: the revision that the request names.
        front_id: the session that it names.
        identity: whose request it is; None when it shows a wrong key.
    """

    head: RequestHead
    route: Route | None
    forwarded: Forwarded
    version: bytes | None
    front_id: bytes | None
    identity: Identity | None


class Exchange:
    """A client's request.

    Attributes:
        id: unique in this process.
        accepted: its head.
        deadline_s: when the answer must have come.
        messages: the JSON-RPC messages of the body: one, or those of a batch.
        batch: whether the body was an array.
        opens_session: whether it is `initialize`, alone in its body.
        keeper: keeps the upstream connection for the client connection's next exchange.
        holder: keeps the use of the session likewise; None for a message of a batch.
        tokens: what the client's address may send; None for a message of a batch.
        principal: whose request it is.
        tier: the principal's tier of rate limits.
        session: the client's session; None before and during `initialize`.
    """

    __slots__ = (
        "accepted", "batch", "deadline_s", "holder", "id", "keeper", "messages",
        "opens_session", "peer", "principal", "request", "session", "tier", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        exchange_id: int,
        request: Request,
        accepted: AcceptedHead,
        peer: str,
        deadline_s: float,
        keeper: Keeper | None = None,
        holder: SessionHolder | None = None,
        tokens: AddressTokens | None = None,
    ) -> None:
        self.id = exchange_id
        self.request = request
        self.accepted = accepted
        self.peer = peer
        self.deadline_s = deadline_s
        self.keeper = keeper
        self.holder = holder
        self.tokens = tokens
        self.messages: tuple[Message, ...] = ()
        self.batch = False
        self.opens_session = False
        self.principal = ANONYMOUS
        self.tier = DEFAULT_TIER
        self.session: Session | None = None

    @property
    def request_id(self) -> str:
        """The proxy's name for the request, in logs and errors."""
        return request_name(self.id)

    @property
    def message(self) -> Message:
        """The one message of the body."""
        return self.messages[0]

    @property
    def answer_id(self) -> bytes | None:
        """The raw JSON id under which an error about the whole request is reported.

        None for a response: its id is the server's, and would name another request to the client.
        """
        if self.batch or len(self.messages) != 1 or self.messages[0].kind is not Kind.REQUEST:
            return None
        return self.messages[0].id

    @property
    def route(self) -> Route:
        """The upstream of a request to an MCP endpoint."""
        route = self.accepted.route
        assert route is not None
        return route

    def in_session(self) -> Session:
        """Return the session of a request that has passed the stack.

        Raises:
            RefusedError: 400, when the request names none.
        """
        if self.session is None:
            raise RefusedError(400, "Mcp-Session-Id is required: initialize first")
        return self.session

    def for_message(self, message: Message, exchange_id: int) -> Exchange:
        """Make the exchange of one message of a batch."""
        one = Exchange(exchange_id, self.request, self.accepted, self.peer, self.deadline_s)
        one.messages = (message,)
        one.principal = self.principal
        one.tier = self.tier
        one.session = self.session
        return one


def request_name(exchange_id: int) -> str:
    """Return the proxy's name for the request of an exchange."""
    return f"{exchange_id:x}"

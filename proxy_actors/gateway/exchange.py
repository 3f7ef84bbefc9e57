"""One request of a client on its way through the stack: what is known of it so far.

An exchange is an object and not a stack frame: the steps of `gateway/stack.py` fill it in, and
whoever forwards it finds everything here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxy_actors.actors.meters import CallMeter, meter_of
from proxy_actors.actors.refs import Slot
from proxy_actors.errors import RefusedError
from proxy_actors.gateway.http_fields import Forwarded
from proxy_actors.gateway.keys import ANONYMOUS, DEFAULT_TIER, Identity, owner_name
from proxy_actors.gateway.lease import Keeper
from proxy_actors.gateway.session_use import SessionHolder
from proxy_actors.messages.legacy import StreamFound
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.http1_request import Request, RequestHead
from proxy_actors.protocol.jsonrpc import REQUEST, Message

if TYPE_CHECKING:
    from proxy_actors.gateway.limits import AddressTokens
    from proxy_actors.gateway.route import Endpoint, Route


class AcceptedHead(msgspec.Struct, frozen=True):
    """A head that has passed the checks, and what of it matters; made once while it repeats.

    Attributes:
        route: the upstream that its path leads to; None for a page of the proxy's own.
        endpoint: which of the upstream's endpoints it is.
        forwarded: the client's fields that may pass to an upstream (HTTP-F1).
        version: the revision that the request names.
        front_id: the session that it names.
        identity: whose request it is; None when it shows a wrong key.
    """

    head: RequestHead
    route: Route | None
    endpoint: Endpoint
    forwarded: Forwarded
    version: bytes | None
    front_id: bytes | None
    identity: Identity | None


class Client:
    """What a client's connection has from one request to the next.

    Attributes:
        peer: its address.
        keeper: keeps the upstream connection for the next exchange.
        holder: keeps the use of the session likewise.
        tokens: what the address may send.
    """

    __slots__ = ("holder", "keeper", "peer", "tokens")

    def __init__(
        self, peer: str, keeper: Keeper, holder: SessionHolder, tokens: AddressTokens
    ) -> None:
        self.peer = peer
        self.keeper = keeper
        self.holder = holder
        self.tokens = tokens


class Exchange:
    """A client's request.

    Attributes:
        id: unique in this process.
        accepted: its head.
        client: whose connection it came on.
        began_s, deadline_s: when it had come, and when the answer must have.
        sent_s, head_deadline_s: when the try in hand began, and when the head of its answer must
            have come.
        tries: how many went before it.
        may_be_running: whether the upstream may be busy with one of them.
        route: the upstream; only a request to an MCP endpoint has one.
        message: the JSON-RPC message of the body, the first one of a batch; unset before it is
            admitted.
        messages: all messages of the body.
        meter: where `message` is counted; unset like it.
        batch: whether the body was an array.
        parted: whether its messages, those of a batch, have become exchanges of their own.
        opens_session: whether it is `initialize`, alone in its body.
        keeper: the client's; None for a message of a batch, whose requests run all at once.
        principal: whose request it is.
        tier: the principal's tier of rate limits.
        session: the client's session; None before and during `initialize`.
        stream, found: where what comes to the message endpoint of a stream is answered, and what
            that has said of itself; unset for all else.
    """

    __slots__ = (
        "accepted", "batch", "began_s", "client", "deadline_s", "found", "head_deadline_s", "id",
        "keeper", "may_be_running", "message", "messages", "meter", "opens_session", "parted",
        "principal", "request", "route", "sent_s", "session", "stream", "tier", "tries",
    )  # fmt: skip
    route: Route
    message: Message
    meter: CallMeter
    stream: Slot
    found: StreamFound

    def __init__(
        self,
        exchange_id: int,
        request: Request,
        accepted: AcceptedHead,
        client: Client,
        began_s: float,
        deadline_s: float,
    ) -> None:
        self.id = exchange_id
        self.request = request
        self.accepted = accepted
        self.client = client
        self.began_s = self.sent_s = began_s
        self.deadline_s = self.head_deadline_s = deadline_s
        self.tries = 0
        self.may_be_running = False
        if accepted.route is not None:
            self.route = accepted.route
        self.keeper: Keeper | None = client.keeper
        self.messages: tuple[Message, ...] = ()
        self.batch = False
        self.parted = False
        self.opens_session = False
        self.principal = ANONYMOUS
        self.tier = DEFAULT_TIER
        self.session: Session | None = None

    @property
    def request_id(self) -> str:
        """The proxy's name for the request, in logs and errors."""
        return request_name(self.id)

    @property
    def owner(self) -> Owner:
        """Whose share of an upstream's connections it has: the principal's, or the address's."""
        name = owner_name(self.principal, self.client.peer)
        return Owner(name, "" if self.session is None else self.session.key)

    @property
    def answer_id(self) -> bytes | None:
        """The raw JSON id under which an error about the whole request is reported.

        None for a response: its id is the server's, and would name another request to the client.
        """
        if self.batch or not self.messages or self.message.kind is not REQUEST:
            return None
        return self.message.id

    def in_session(self) -> Session:
        """Return the session of a request that has passed the stack.

        Raises:
            RefusedError: 400, when the request names none.
        """
        if self.session is None:
            raise session_required()
        return self.session

    def for_message(self, message: Message, exchange_id: int) -> Exchange:
        """Make the exchange of one message of a batch."""
        one = Exchange(
            exchange_id, self.request, self.accepted, self.client, self.began_s, self.deadline_s
        )
        one.keeper = None
        one.message, one.messages = message, (message,)
        one.meter = meter_of(self.route.meters, message)
        one.opens_session = self.opens_session
        one.principal = self.principal
        one.tier = self.tier
        one.session = self.session
        return one


def session_required() -> RefusedError:
    """Make the error for a request that names no session and is not `initialize` (MCP-S-3)."""
    return RefusedError(400, "Mcp-Session-Id is required: initialize first")


def request_name(exchange_id: int) -> str:
    """Return the proxy's name for the request of an exchange."""
    return f"{exchange_id:x}"

"""What a request goes through before it is forwarded, and the pages that are served here.

`STEPS` is the order of the checks, cheapest first and nothing that costs before what refuses: read
it as the policy of this proxy. Each step fills in the exchange or raises the error that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.actors.legacy_stream import unknown
from proxy_actors.actors.meters import meter_of
from proxy_actors.errors import (
    UNSUPPORTED_PROTOCOL_VERSION,
    ActorStoppedError,
    RefusedError,
)
from proxy_actors.gateway.exchange import AcceptedHead, Exchange, session_required
from proxy_actors.gateway.http_fields import forwarded_fields
from proxy_actors.gateway.keys import unauthorized
from proxy_actors.gateway.pages import PAGES
from proxy_actors.gateway.route import MCP, MESSAGES, OURS, SSE, Endpoint
from proxy_actors.gateway.wiring import Wiring
from proxy_actors.messages.legacy import FindSession
from proxy_actors.messages.stream import CloseStream
from proxy_actors.policy.legacy_streams import stream_of
from proxy_actors.protocol.headers import accepts, first, media_type
from proxy_actors.protocol.http1_request import RequestHead
from proxy_actors.protocol.jsonrpc import REQUEST, Message, admit
from proxy_actors.protocol.revisions import (
    INITIALIZE,
    SESSION_VERSIONS,
    allows_batches,
)

ALLOW: dict[Endpoint, bytes] = {
    MCP: b"POST, GET, DELETE, OPTIONS",
    SSE: b"GET, OPTIONS",
    MESSAGES: b"POST, OPTIONS",
    OURS: b"GET, HEAD, OPTIONS",
}
# The field of the query of a message endpoint that names the stream.
STREAM_FIELD = b"sessionId"
FIND_S_MAX = 1.0
_METHODS = {endpoint: frozenset(allow.split(b", ")) for endpoint, allow in ALLOW.items()}
_VERSIONS = frozenset(version.encode("ascii") for version in SESSION_VERSIONS)

Step = Callable[[Exchange, Wiring], None]


def accept_head(head: RequestHead, peer: str, wiring: Wiring) -> AcceptedHead:
    """Judge a request by its head alone, before any of the body is waited for.

    Args:
        peer: the client's address.

    Raises:
        RefusedError: the request is not for here, from a foreign page, or of no use.
    """
    wiring.names.check_host(head.host)  # first: nothing of a foreign name's request is looked at
    for name, value in head.fields:
        if name == b"origin":
            wiring.names.check_origin(value, head.host)
    route, endpoint = wiring.routes.find(head.path)
    _check_path(head, endpoint)
    if endpoint is not OURS and head.method in (b"POST", b"GET"):
        _check_media(head, endpoint)
    return AcceptedHead(
        head,
        route,
        endpoint,
        forwarded_fields(head.fields, head.host, peer, wiring.pseudonym, wiring.scheme),
        first(head.fields, b"mcp-protocol-version"),
        first(head.fields, b"mcp-session-id"),
        wiring.keyring.identify(head.fields),
    )


def take_address(exchange: Exchange, wiring: Wiring) -> None:
    """Refuse what its address may not send now, save for what is never limited.

    Raises:
        FailedError: rate-limited, under the request's id where it can be read.
    """
    client = exchange.client
    limited = client.tokens.take(client.peer, exchange.began_s)
    if limited is None:
        return
    if exchange.accepted.head.method == b"POST":
        admit_body(exchange, wiring)
        if all(message.kind is not REQUEST for message in exchange.messages):
            return
    raise wiring.rates.refusal(limited, exchange)


def admit_body(exchange: Exchange, wiring: Wiring) -> None:
    """Read the JSON-RPC message, or those of a batch."""
    admitted = admit(exchange.request.body)
    if isinstance(admitted, Message):
        exchange.message, exchange.messages = admitted, (admitted,)
        exchange.opens_session = admitted.method == INITIALIZE and admitted.kind is REQUEST
    else:
        exchange.message, exchange.messages = admitted[0], admitted
        exchange.batch = True
    exchange.meter = meter_of(exchange.route.meters, exchange.message)


def authenticate(exchange: Exchange, wiring: Wiring) -> None:
    """Find out whose request it is (MCP-A-10)."""
    identity = exchange.accepted.identity
    if identity is None:
        limited = wiring.rates.take_failure(exchange, wiring.keyring, wiring.world.now_s())
        fields = exchange.accepted.head.fields
        raise unauthorized(fields) if limited is None else limited
    exchange.principal, exchange.tier = identity.principal, identity.tier


def check_version(exchange: Exchange, wiring: Wiring) -> None:
    """Refuse a revision that is not spoken here (MCP-S-11); absent is the session's own.

    -32022 with the list of what is spoken is right in both eras: 400 for a session client, and for
    one that asks for a later revision first the sign that it may fall back to `initialize`.
    """
    version = exchange.accepted.version
    if version is not None and version not in _VERSIONS:
        raise RefusedError(
            400,
            "this protocol version is not supported",
            code=UNSUPPORTED_PROTOCOL_VERSION,
            data={
                "supported": list(SESSION_VERSIONS),
                "requested": version.decode("ascii", "replace")[:64],
            },
        )


def find_session(exchange: Exchange, wiring: Wiring) -> None:
    """Find the session that the request names (MCP-S-3, S-4); `initialize` names none.

    A session lives at one upstream, and is unknown at the endpoints of others.
    """
    front_id = exchange.accepted.front_id
    if exchange.opens_session:
        if front_id is not None:
            raise RefusedError(400, "initialize opens a session and cannot be sent within one")
        return
    _check_no_initialize(exchange)
    if front_id is None:
        raise session_required()
    session = exchange.client.holder.begin(exchange.id, front_id, exchange.principal)
    if session.upstream != exchange.route.name:
        raise RefusedError(404, "there is no such session")
    exchange.session = session


def find_stream(exchange: Exchange, wiring: Wiring) -> None:
    """Find the stream whose message endpoint this is, and its session (MCP-L-3).

    The stream's id is in the query, since all that a client of 2024-11-05 knows is a URI.
    """
    name, _, id = exchange.accepted.head.query.partition(b"=")
    if name != STREAM_FIELD:
        raise RefusedError(400, "the target names no session: GET the stream first")
    try:
        exchange.stream = wiring.streams.find(stream_of(id.decode("ascii", "replace")))
        ask = FindSession(exchange.principal, exchange.route.name)
        exchange.found = exchange.stream.ask(ask, wiring.world.now_s() + FIND_S_MAX)
    except ActorStoppedError as error:
        raise unknown() from error
    if exchange.opens_session:
        return
    _check_no_initialize(exchange)
    if not exchange.found.front_id:
        raise RefusedError(400, "initialize first")
    try:
        exchange.session = exchange.client.holder.begin(
            exchange.id, exchange.found.front_id.encode("ascii"), exchange.principal
        )
    except RefusedError:
        exchange.stream.tell(CloseStream())
        raise


def check_batch(exchange: Exchange, wiring: Wiring) -> None:
    """Refuse an array where the revision has none (MCP-S-12, S-13)."""
    if exchange.batch and not allows_batches(exchange.in_session().version):
        raise RefusedError(400, "batches are not part of the negotiated revision")


def take_rules(exchange: Exchange, wiring: Wiring) -> None:
    """Refuse what the rules on rates do not let pass now."""
    wiring.rates.take(exchange, wiring.world.now_s)


STEPS_OF_POST: tuple[Step, ...] = (
    # The connection's bounds, Host, Origin and the head were checked when the head had come.
    take_address,  # before anything costs
    admit_body,  # next: everything below decides by what the body says
    authenticate,  # whose it is, before anything is looked up for it
    check_version,  # before the look-up: a revision not spoken here has no sessions here
    find_session,  # reads only; identity is known before any cost is caused
    check_batch,  # needs the session's revision
    take_rules,  # last: identity, session, method and tool are known, and nothing else refuses
)
STEPS_OF_GET: tuple[Step, ...] = (take_address, authenticate, check_version, find_session)
STEPS_OF_DELETE: tuple[Step, ...] = (authenticate, check_version, find_session)  # never limited
# The transport of 2024-11-05: the stream that is opened, and what is sent to its message endpoint.
STEPS_OF_SSE: tuple[Step, ...] = (take_address, authenticate, check_version)
STEPS_OF_MESSAGES: tuple[Step, ...] = (
    take_address, admit_body, authenticate, check_version, find_stream, check_batch, take_rules,
)  # fmt: skip


def _check_no_initialize(exchange: Exchange) -> None:
    for message in exchange.messages:
        if message.method == INITIALIZE:
            raise RefusedError(400, "initialize must not be part of a batch")


def _check_path(head: RequestHead, endpoint: Endpoint) -> None:
    if endpoint is OURS and head.path not in PAGES:
        if head.target != b"*" or head.method != b"OPTIONS":
            raise RefusedError(404, "there is nothing at this path")
    elif head.method not in _METHODS[endpoint]:
        allow = ((b"allow", ALLOW[endpoint]),)
        raise RefusedError(405, "this method is not allowed here", headers=allow)


def _check_media(head: RequestHead, endpoint: Endpoint) -> None:
    accept = b", ".join(value for name, value in head.fields if name == b"accept")
    stream = accepts(accept, b"text/event-stream")
    if head.method == b"GET":
        if not stream:
            raise RefusedError(406, "Accept must list text/event-stream")
        return
    # What a message endpoint answers has no body, so its clients need not say what they accept.
    if endpoint is MCP and not (stream and accepts(accept, b"application/json")):
        raise RefusedError(406, "Accept must list application/json and text/event-stream")
    content_type = first(head.fields, b"content-type")
    if content_type is None or media_type(content_type) != b"application/json":
        raise RefusedError(415, "Content-Type must be application/json")

"""The end of an `initialize` that an upstream has accepted: a session, durable, and its answer."""

from __future__ import annotations

import logging

import msgspec

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_registry import KEY_CHARACTERS_LOGGED
from proxy_actors.errors import Executed, FailedError, Reason
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.response import Response, json_response
from proxy_actors.gateway.route import MESSAGES
from proxy_actors.messages.sessions import CreateSession, SessionCreated
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import SESSION_VERSIONS


logger = logging.getLogger("proxy_actors.sessions")


class _InitializeResult(msgspec.Struct):
    protocolVersion: str


class Handshake:
    """Creates sessions at one upstream.

    Args:
        endpoint: what tells the upstream's server from any other.
    """

    def __init__(self, registry: Slot, upstream: str, endpoint: str = "") -> None:
        self._registry = registry
        self._upstream = upstream
        self.endpoint = endpoint

    def create(
        self,
        exchange: Exchange,
        answer: Message,
        version: str,
        upstream_session_id: str | None = None,
        child: str = "",
        returned: Fields = [],
    ) -> Response:
        """Create the session and return the client's answer, once the session is durable.

        Args:
            child: the session's own process, with which it ends; "" where it can go on after a
                restart of the proxy.
            returned: fields of the upstream's answer that pass on.

        Raises:
            FailedError: the registry has no room, or could not store the session.
            DeadlineError, ActorStoppedError, MailboxFullError: the registry did not answer.
        """
        params = exchange.message.envelope.get("params")
        ask = CreateSession(
            principal=exchange.principal,
            upstream=self._upstream,
            endpoint=child or self.endpoint,
            upstream_session_id=upstream_session_id,
            version=version,
            initialize_params=b"{}" if params is None else bytes(params),
            # A stream of the old transport takes its session with it when it ends.
            resumable=not child and exchange.accepted.endpoint is not MESSAGES,
            owner=exchange.owner.name,
        )
        created: SessionCreated = self._registry.ask(ask, exchange.deadline_s)
        session = exchange.session = created.session
        logger.info(
            "session_created request=%s key=%s upstream=%s",
            exchange.request_id, session.key[:KEY_CHARACTERS_LOGGED], session.upstream,
        )
        session_id = (b"mcp-session-id", created.front_id.encode("ascii"))
        return json_response(answer.raw, [session_id, *returned])


def agreed_version(request: Message, version: str) -> str:
    """Choose the revision of a session at a server with which the proxy has shaken hands itself.

    It is the older one of the server's `version` and what the client's `initialize` asks for; the
    server's where the client asks for one that is not spoken here (MCP-S-1).
    """
    asked = bytes(request.params.get("protocolVersion", b"")).decode("utf-8").strip('"')
    return min(asked, version) if asked in SESSION_VERSIONS else version


def negotiated_version(answer: Message, upstream: str) -> str:
    """Read the version that the upstream chose.

    Raises:
        FailedError: the result names none, or one that is not of the session era.
    """
    try:
        version = msgspec.json.decode(answer.envelope["result"], type=_InitializeResult)
    except (KeyError, msgspec.ValidationError):
        text = "the upstream's initialize result names no protocol version"
    else:
        if version.protocolVersion in SESSION_VERSIONS:
            return version.protocolVersion
        text = "the upstream chose a protocol version that this proxy does not speak"
    raise FailedError(
        Reason.UPSTREAM_PROTOCOL, text, executed=Executed.UNKNOWN, upstream=upstream
    )

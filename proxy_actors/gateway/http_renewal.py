"""Opens a session anew at an upstream that has lost it, where the operator has allowed that.

What the client once said in `initialize`, the level that it set and what it subscribed to are said
again; what else the server kept for the session is gone (RELIABILITY 1.3, "reinitialize"). Runs in
a greenlet of the upstream's actor. Nothing is lost when it is cut short: the session is as it was.
"""

from __future__ import annotations

import logging

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_registry import KEY_CHARACTERS_LOGGED
from proxy_actors.errors import FailedError, ProxyActorsError, Reason, RefusedError
from proxy_actors.gateway import upstream_status
from proxy_actors.gateway.forwarder import INITIALIZE_S_MAX
from proxy_actors.gateway.handshake import negotiated_version
from proxy_actors.gateway.http_fields import session_id_of
from proxy_actors.gateway.own_requests import OwnRequests
from proxy_actors.messages.http_upstream import RenewalEnded
from proxy_actors.messages.sessions import (
    DescribeSession,
    EndReason,
    EndSession,
    MoveSession,
    Session,
)
from proxy_actors.protocol import jsonrpc, jsonrpc_rewrite
from proxy_actors.protocol.revisions import INITIALIZE, INITIALIZED, SET_LEVEL, SUBSCRIBE
from proxy_actors.world.base import World

# Less than who asks for it waits.
RENEWAL_S_MAX = INITIALIZE_S_MAX - 5.0
# What a client shall ask for once more, by the capability under which servers have it.
_LISTS = ("tools", "prompts", "resources")

logger = logging.getLogger("proxy_actors.sessions")


class _Described(msgspec.Struct):
    capabilities: dict[str, Raw] = {}


class Renewer:
    """Opens sessions anew at one upstream."""

    def __init__(self, world: World, own: OwnRequests, registry: Slot, endpoint: str = "") -> None:
        self._world = world
        self._own = own
        self._registry = registry
        self._upstream = own.upstream
        self._endpoint = endpoint

    def renew(self, session: Session) -> RenewalEnded:
        """Open a session anew; one that cannot be has ended."""
        try:
            ended = self._renew(session)
        except (RefusedError, FailedError) as error:
            reason = error.reason if isinstance(error, FailedError) else Reason.SESSION_LOST
            ended = RenewalEnded(session.key, None, (), reason, error.text)
            if reason is Reason.SESSION_LOST:
                self._registry.tell(EndSession(session.key, EndReason.LOST))
        except ProxyActorsError:  # somebody of ours does not answer
            text = "the session could not be opened anew"
            ended = RenewalEnded(session.key, None, (), Reason.INTERNAL, text)
        logger.warning(
            "session_renewed key=%s upstream=%s error=%s",
            session.key[:KEY_CHARACTERS_LOGGED], self._upstream, ended.text or "none",
        )
        return ended

    def _renew(self, session: Session) -> RenewalEnded:
        deadline_s = self._world.now_s() + RENEWAL_S_MAX
        present: Session | None = self._registry.ask(DescribeSession(session.key), deadline_s)
        if present is None:
            raise upstream_status.session_lost(self._upstream)
        if present.place != session.place:
            return RenewalEnded(session.key, present)
        params = Raw(session.initialize_params)
        answer, fields = self._own.ask(INITIALIZE, params, None, deadline_s)
        fresh = replace(
            present, endpoint=self._endpoint, upstream_session_id=session_id_of(fields)
        )
        kept = False
        try:
            if answer.is_error or (
                negotiated_version(answer, self._upstream) != session.version
            ):
                raise upstream_status.session_lost(self._upstream)
            self._restore(fresh, deadline_s)
            replaced: Session | None = self._registry.ask(
                MoveSession(session.key, session.place, fresh.place), deadline_s
            )
            if replaced is None:
                raise upstream_status.session_lost(self._upstream)
            kept = replaced.place == fresh.place
            return RenewalEnded(session.key, replaced, _news(answer))
        finally:
            if not kept:
                self._world.spawn("session delete", lambda: self._own.delete(fresh))

    def _restore(self, session: Session, deadline_s: float) -> None:
        """Say again what the client has said in the session's life."""
        self._own.notify(INITIALIZED, session)
        if session.log_level is not None:
            self._say(SET_LEVEL, {"level": session.log_level}, session, deadline_s)
        for uri in session.subscriptions:
            self._say(SUBSCRIBE, {"uri": uri}, session, deadline_s)

    def _say(self, method: str, params: object, session: Session, deadline_s: float) -> None:
        answer, _ = self._own.ask(method, params, session, deadline_s)
        if answer.is_error:  # a resource that is there no more, say
            logger.warning("session_not_restored upstream=%s method=%s", self._upstream, method)


def _news(initialized: jsonrpc.Message) -> tuple[bytes, ...]:
    """Return what tells a client that all which it has listed may be different."""
    try:
        result = msgspec.json.decode(initialized.envelope["result"], type=_Described)
    except msgspec.ValidationError:
        capabilities: dict[str, Raw] = {name: Raw() for name in _LISTS}  # nobody knows
    else:
        capabilities = result.capabilities
    return tuple(
        jsonrpc_rewrite.notification(f"notifications/{name}/list_changed")
        for name in _LISTS
        if name in capabilities
    )

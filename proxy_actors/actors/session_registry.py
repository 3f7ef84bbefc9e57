"""The shell of the session policy: answers who asks, submits what is to be stored, tells upstreams.

Owns the askers that wait. The rows and the notes on what is unfinished belong to the store, which
outlives this actor, so a crash loses no session. It never blocks and never reads the store after
its start. Exchanges ask and tell it, upstreams hear from it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import assert_never

from proxy_actors.actors.base import LATER, Actor
from proxy_actors.actors.refs import Reply, Slot
from proxy_actors.actors.session_uses import SessionUses
from proxy_actors.errors import (
    ActorStoppedError,
    Executed,
    FailedError,
    GatewayError,
    ProxyActorsError,
    Reason,
    RefusedError,
    Side,
)
from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import SessionEffect, SessionMessage, SessionWrite
from proxy_actors.messages.upstream import DescribeReadiness, Readiness
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy
from proxy_actors.world.base import Mailbox, World
from proxy_actors.world.stores import SessionStore

# THR-T5 asks for 128 bits at least.
ID_RANDOM_BYTES = 24
RETRY_AFTER_S = 5.0
KEY_CHARACTERS_LOGGED = 12

logger = logging.getLogger("proxy_actors.sessions")


class SessionRegistry(Actor):
    """The registry of all sessions.

    Args:
        slot: its stable name.
        store: where sessions are kept; the same one for every incarnation.
        uses: who uses which session; the same one for every incarnation.
        upstreams: who is told that a session ended, by the upstreams' configured names. Start them
            before this actor: it may have ends to tell as it starts.
        endpoints: what resumable sessions may have as their endpoint, by the same names.
        legacy: hears that a session has ended as well: its client's stream may end with it.
    """

    mail_max = 10_000

    def __init__(
        self,
        world: World,
        slot: Slot,
        limits: SessionLimits,
        store: SessionStore,
        uses: SessionUses,
        upstreams: Mapping[str, Mailbox],
        endpoints: Mapping[str, Collection[str]],
        legacy: Mailbox | None = None,
    ) -> None:
        super().__init__(world, slot.name)
        self._uses = uses
        self._store = store
        self._upstreams = upstreams
        self._endpoints = endpoints
        self._legacy = legacy
        self._asks: dict[int, Reply] = {}
        self._ask_ids = count(1)
        self._store_error = ""
        self._policy = SessionPolicy(
            limits, lambda: world.token(ID_RANDOM_BYTES), world.wall_s, store.unfinished
        )

    def on_start(self) -> None:
        """Go on with what is stored; end what the last incarnation had in hand."""
        self._uses.clear()
        self._policy.load(self._store.rows(), self._endpoints, self.world.now_s())
        self._apply(m.SessionSweepDue(0))

    def on_receive(self, message: SessionMessage | DescribeReadiness) -> object:
        """Apply the message; creations and ends are answered when they are durable."""
        match message:
            case DescribeReadiness():
                return Readiness(not self._store_error, self._store_error)
            case m.BeginUse():
                return self._begin_use(message)
            case m.EndUse(_, exchange_id):
                self._uses.leave(exchange_id)
            case m.CreateSession():
                if self.asked_by is None:
                    raise ProxyActorsError("a session must be asked for, not told")
                return self._apply_asked(message, self.asked_by)
            case (
                m.EndSession() | m.DescribeSession() | m.MoveSession()
            ) if self.asked_by is not None:
                return self._apply_asked(message, self.asked_by)
            case m.WriteDone(_, error):
                self._note_store(error)
        self._apply(message)
        return None

    def on_stop(self) -> None:
        """Leave no asker waiting; write down last uses. No session ends with the proxy."""
        self._apply(m.FlushDue())
        self._fail_askers()

    def on_crash(self) -> None:
        """Leave no asker waiting."""
        self._fail_askers()

    def describe(self) -> dict[str, object]:
        """Return the sessions in figures, and the last error of the store if it has not recovered.

        While there is one, no session can be created or ended; those that are go on.
        """
        gauges = self._policy.gauges()
        figures = {name: getattr(gauges, name) for name in gauges.__struct_fields__}
        return {**figures, "store_error": self._store_error}

    def _begin_use(self, message: m.BeginUse) -> object:
        reply = self.asked_by
        if reply is None:
            raise ProxyActorsError("a use must be asked for, not told")
        if reply.settled:
            return None  # the asker gave up while the mail lay in the box
        effects = self._policy.handle(message, self.world.now_s())
        match effects[0]:
            case m.Admit(session):
                if message.exchange_id:
                    self._uses.enter(message.exchange_id, session)
                return session
        reply.fail(RefusedError(404, "there is no such session"))
        self._perform_all(effects[1:])
        return LATER

    def _apply_asked(self, message: SessionMessage, reply: Reply) -> object:
        ask_id = next(self._ask_ids)
        self._asks[ask_id] = reply
        self._apply(message, ask_id)
        return LATER

    def _apply(self, message: SessionMessage, ask_id: int = 0) -> None:
        self._take_back_uses(message)
        self._perform_all(self._policy.handle(message, self.world.now_s(), ask_id))

    def _take_back_uses(self, message: SessionMessage) -> None:
        """End the kept uses that would mislead a decision about who uses a session."""
        match message:
            case m.SetLogLevel(key) | m.SetSubscription(key) | m.MoveSession(key):
                kept = self._uses.kept(key)
                self._uses.revoke(key)
            case m.CreateSession(_, upstream) if self._policy.needs_room(message.owner, upstream):
                kept = self._uses.kept()
            case m.SessionSweepDue() | m.FlushDue():
                kept = self._uses.kept()
            case _:
                return
        for row in kept:
            self._uses.leave(row.id)
            self._policy.handle(m.EndUse(exchange_id=row.id, used_s=row.used_s), row.used_s)

    def _perform_all(self, effects: Sequence[SessionEffect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: SessionEffect) -> None:
        match effect:
            case m.Accept(ask_id, front_id, session):
                self._accept(self._asks[ask_id], front_id, session)
                del self._asks[ask_id]
            case m.Refuse(ask_id, refusal):
                self._asks.pop(ask_id).fail(_refused(refusal))
            case m.Confirm(ask_id, existed):
                self._asks.pop(ask_id).set(existed)
            case m.AnswerSession(ask_id, session):
                self._asks.pop(ask_id).set(session)
            case m.Write(write_id, writes):
                self._submit(write_id, writes)
            case m.TellEnded(ended):
                self._tell_ended(ended)
            case m.Wake(after_s, generation):
                self.world.timer(after_s, self.ref, m.SessionSweepDue(generation))
            case m.Admit() | m.Reject():
                raise AssertionError("a use is answered where it is asked for")
            case _:
                assert_never(effect)

    def _submit(self, write_id: int, writes: Sequence[SessionWrite]) -> None:
        for write in writes:
            if isinstance(write, m.DeleteSession):
                self._uses.revoke(write.key)  # a session that ends is of no further use
        ref = self.ref  # to this incarnation alone: the next one does not know the id
        self._store.submit(writes, lambda error: ref.tell(m.WriteDone(write_id, error)))

    def _accept(self, reply: Reply, front_id: str, session: m.Session) -> None:
        if reply.settled:
            # The asker gave up, so nobody has the id. One that gives up just now is not seen here:
            # then the session expires unused.
            self._apply(m.EndSession(session.key, m.EndReason.DELETED))
            return
        reply.set(m.SessionCreated(front_id, session))

    def _tell_ended(self, ended: m.SessionEnded) -> None:
        key = ended.session.key[:KEY_CHARACTERS_LOGGED]
        logger.info("session_ended key=%s reason=%s", key, ended.reason)
        upstream = self._upstreams.get(ended.session.upstream)
        if upstream is not None:
            upstream.tell(ended)
        if self._legacy is not None:
            self._legacy.tell(ended)
        self._store.unfinished.pop(ended.session.key, None)

    def _note_store(self, error: str) -> None:
        """Log when the store begins to fail and when it recovers, not each failure."""
        if error and not self._store_error:
            logger.error("session_write_failed error=%s", error)
        elif self._store_error and not error:
            logger.warning("session_writes_recovered")
        self._store_error = error

    def _fail_askers(self) -> None:
        for reply in self._asks.values():
            reply.fail(ActorStoppedError(f"{self.name} stopped"))
        self._asks.clear()


def _refused(refusal: m.Refusal) -> GatewayError:
    reason, side = Reason.OVERLOADED, Side.PROXY
    match refusal:
        case m.Refusal.TOO_LARGE:
            return RefusedError(413, "the params of initialize are too large")
        case m.Refusal.FULL:
            text = "there is no room for another session of this client"
        case m.Refusal.SHARE:
            reason, side = Reason.RATE_LIMITED, Side.CLIENT
            text = "too many sessions of this client are in use"
        case m.Refusal.NOT_STORED:
            text = "the session could not be stored"
        case _:
            assert_never(refusal)
    # The upstream has seen the initialize, but answering it once more does no harm.
    return FailedError(
        reason, text, executed=Executed.UNKNOWN, retryable=True, retry_after_s=RETRY_AFTER_S,
        side=side,
    )

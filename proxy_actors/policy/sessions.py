"""Decides which sessions there are, who may use them, and when they end.

Owns every session of the process. It stores nothing and tells nobody: it says so as effects, which
`actors/session_registry.py` carries out.

A session goes one way, and each step waits for the store:

    creating  its row is being written; its id has left for nobody and opens nothing
    live      it can be used
    ending    its row is being deleted; it cannot be used
    gone      its id is forgotten, its upstream has been told, who asked for the end is answered

So a crash of the process at any moment loses no session whose id a client was given, and revives
none whose end a client was told of. What a client of an *ending* session is told meanwhile is 404,
as after the end: a crash then can bring back a session that its client has just left, which expires
like any other. There is one way back: a session that was only to make room is live again when its
deletion fails together with the creation that wanted the room. Ends that were asked for, and
expiries, stay and are tried again at each sweep.

`unfinished` holds a note of every session that is creating or ending, until the shell has told the
upstream. It outlives the policy: after a crash of the actor the next incarnation ends all of those,
since nobody knows what became of the writes; deleting what is not there is no error. Uses are
forgotten with the actor: what was open then does not keep its session from being the next to make
room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import assert_never

import msgspec

from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import EndReason, SessionEffect, SessionMessage, SessionWrite
from proxy_actors.policy.session_changes import SessionChange, changed
from proxy_actors.policy.session_ledger import (
    Entry,
    Phase,
    SessionGauges,
    SessionLedger,
    hash_of_principal,
    key_of,
)

OWNER = "0"
ID_PREFIX = f"v1.{OWNER}."
_NOTHING: tuple[SessionEffect, ...] = ()
_REJECT: tuple[SessionEffect, ...] = (m.Reject(),)


class SessionLimits(msgspec.Struct, frozen=True):
    """The bounds of the registry.

    Attributes:
        sessions_max: sessions created or live, 1 to 1,000,000. More, or more than one client's
            share of them, evict the longest unused of whoever has most.
        of_upstream: of these, the most at an upstream whose sessions have something each: a
            process, or a connection. More evict likewise there.
        idle_timeout_s: a session ends when it was not used for so long. A day, so that a client
            left open in the evening goes on in the morning; memory is bounded by `sessions_max`.
        lifetime_max_s: a session ends at this age even when used, so that no id works for ever.
        flush_interval_s: how often last uses are written down, and expired sessions looked for.
        params_bytes_max: bytes of `initialize` params of a session; more are refused.
        subscription_bytes_max: characters of URIs kept for a session; more are not kept.
    """

    sessions_max: int = 10_000
    of_upstream: dict[str, int] = {}
    idle_timeout_s: float = 86_400.0
    lifetime_max_s: float = 30 * 86_400.0
    flush_interval_s: float = 30.0
    params_bytes_max: int = 65_536
    subscription_bytes_max: int = 65_536


class SessionPolicy:
    """Decides for one incarnation of the registry.

    Args:
        limits: the bounds.
        token: makes an unguessable string of visible ASCII.
        wall_s: the clock of what is stored, seconds since the epoch.
        unfinished: the notes of earlier incarnations, kept up from now on by this one.

    First comes `load`, then SessionSweepDue(0).
    """

    def __init__(
        self,
        limits: SessionLimits,
        token: Callable[[], str],
        wall_s: Callable[[], float],
        unfinished: dict[str, m.SessionEnded],
    ) -> None:
        self.limits = limits
        self._token = token
        self._wall_s = wall_s
        self._unfinished = unfinished
        self._ledger = SessionLedger(limits.sessions_max, limits.of_upstream)
        self._entries = self._ledger.entries
        self._writes: dict[int, tuple[SessionWrite, ...]] = {}
        self._last_write_id = 0
        self._flush_id = 0
        self._generation = 0

    def load(
        self,
        rows: Iterable[m.SessionRow],
        endpoints: Mapping[str, Collection[str]],
        now_s: float,
    ) -> None:
        """Take over the durable sessions.

        Those end whose upstream is not among these, or is another server under the same name:
        `endpoints` are those that resumable sessions may have, by the names of the upstreams. A
        session must never go on at a server that did not open it.

        Rows may come from another boot of the machine: their times are on the wall clock, and one
        in the future counts as now.
        """
        ahead_s = self._wall_s() - now_s
        entries = [
            Entry(
                row.session, row.resumable,
                min(row.created_s - ahead_s, now_s), min(row.used_s - ahead_s, now_s),
                row.holder or row.session.principal,
            )
            for row in rows
            if row.session.key not in self._unfinished
        ]
        for entry in sorted(entries, key=lambda entry: entry.born_s):
            self._ledger.enter(entry)
        for entry in sorted(entries, key=lambda entry: entry.used_s):
            self._ledger.make_live(entry)
            known = endpoints.get(entry.session.upstream)
            if known is None or (entry.resumable and entry.session.endpoint not in known):
                self._begin_end(entry, EndReason.LOST)
                entry.deleting = False  # the first sweep deletes
        for key, ended in self._unfinished.items():
            if key not in self._entries:
                self._ledger.enter_ending(Entry(ended.session, False, now_s, now_s, ""))

    def handle(
        self, message: SessionMessage, now_s: float, ask_id: int = 0
    ) -> Sequence[SessionEffect]:
        """Apply one message and return what is to be done, in order.

        `ask_id` is the shell's name for who waits for the answer, 0 if nobody does. BeginUse is
        answered by the first effect.
        """
        match message:
            case m.BeginUse():
                return self._begin_use(message, now_s)
            case m.EndUse(key, exchange_id, used_s):
                self._ledger.end_use(key, exchange_id, now_s if used_s is None else used_s)
                return _NOTHING
            case m.CreateSession():
                return self._create(message, now_s, ask_id)
            case m.EndSession(key, reason):
                return self._end_session(key, reason, ask_id)
            case m.SetLogLevel() | m.SetSubscription():
                return self._change(message, now_s)
            case m.DescribeSession(key):
                return (m.AnswerSession(ask_id, self._ledger.live(key)),)
            case m.MoveSession(key):
                effects = self._change(message, now_s)
                return (*effects, m.AnswerSession(ask_id, self._ledger.live(key)))
            case m.WriteDone(write_id, error):
                return self._written(write_id, error, now_s)
            case m.SessionSweepDue(generation):
                return self._sweep(now_s) if generation == self._generation else _NOTHING
            case m.FlushDue():
                return self._flush(now_s)
            case _:
                assert_never(message)

    def needs_room(self, owner: str, upstream: str) -> bool:
        """Whether another session of this owner's at an upstream needs the place of one."""
        return self._ledger.full_at(hash_of_principal(owner), upstream) is not None

    def gauges(self) -> SessionGauges:
        """Return the registry in figures."""
        return self._ledger.gauges()

    # On the path of every request.

    def _begin_use(self, message: m.BeginUse, now_s: float) -> Sequence[SessionEffect]:
        entry = self._entries.get(key_of(message.front_id))
        principal = hash_of_principal(message.principal)
        if (
            entry is None
            or entry.phase is not Phase.LIVE
            or entry.session.principal != principal
        ):
            return _REJECT
        if not entry.uses and now_s - entry.used_s >= self.limits.idle_timeout_s:
            return (*_REJECT, *self._write([self._begin_end(entry, EndReason.EXPIRED)]))
        if entry.holder == principal and message.owner not in ("", message.principal):
            self._ledger.claim(entry, hash_of_principal(message.owner))  # by whoever is back first
        self._ledger.begin_use(entry, message.exchange_id, now_s)
        return (m.Admit(entry.session),)

    # Beginning and end.

    def _create(
        self, message: m.CreateSession, now_s: float, ask_id: int
    ) -> Sequence[SessionEffect]:
        if len(message.initialize_params) > self.limits.params_bytes_max:
            return (m.Refuse(ask_id, m.Refusal.TOO_LARGE),)
        holder = hash_of_principal(message.owner)
        writes: list[SessionWrite] = []
        upstream = message.upstream
        full = self._ledger.full_at(holder, upstream)
        if full is not None:
            victim = self._ledger.to_give_way(holder, full)
            if victim is None:
                left = full.occupied < full.most
                return (m.Refuse(ask_id, m.Refusal.SHARE if left else m.Refusal.FULL),)
            writes.append(self._begin_end(victim, EndReason.EVICTED))
        front_id = ID_PREFIX + self._token()
        session = m.Session(
            key=key_of(front_id),
            principal=hash_of_principal(message.principal),
            upstream=upstream,
            endpoint=message.endpoint,
            upstream_session_id=message.upstream_session_id,
            version=message.version,
            initialize_params=message.initialize_params,
        )
        entry = Entry(session, message.resumable, now_s, now_s, holder)
        entry.front_id, entry.asks = front_id, [ask_id]
        self._ledger.enter(entry)
        # Should this incarnation never learn of the write, the client will never have the id.
        self._unfinished[session.key] = m.SessionEnded(session, EndReason.DELETED)
        writes.append(self._save(entry, now_s))
        return self._write(writes)

    def _end_session(self, key: str, reason: EndReason, ask_id: int) -> Sequence[SessionEffect]:
        entry = self._entries.get(key)
        if entry is None or entry.phase is Phase.CREATING:
            return (m.Confirm(ask_id, False),) if ask_id else _NOTHING
        if ask_id:
            entry.asks.append(ask_id)
        if entry.phase is Phase.LIVE:
            return self._write([self._begin_end(entry, reason)])
        entry.revives = False  # what was to make room is now wanted gone
        return _NOTHING if entry.deleting else self._write([self._delete(entry)])

    def _begin_end(self, entry: Entry, reason: EndReason) -> SessionWrite:
        self._ledger.make_ending(entry)
        entry.revives = reason is EndReason.EVICTED
        self._unfinished[entry.session.key] = m.SessionEnded(entry.session, reason)
        return self._delete(entry)

    def _change(self, change: SessionChange, now_s: float) -> Sequence[SessionEffect]:
        entry = self._entries.get(change.key)
        if entry is None or entry.phase is not Phase.LIVE:
            return _NOTHING
        session = changed(entry.session, change, self.limits.subscription_bytes_max)
        if session is entry.session:
            return _NOTHING
        entry.session = session
        if entry.saving:
            entry.changed = True  # one write at a time for a session, however often it is set
            return _NOTHING
        return self._write([self._save(entry, now_s)])

    # Writes, on their way out.

    def _save(self, entry: Entry, now_s: float) -> SessionWrite:
        entry.saving, entry.changed, entry.stored_s = True, False, entry.used_s
        ahead_s = self._wall_s() - now_s
        created_s, used_s = entry.born_s + ahead_s, entry.used_s + ahead_s
        row = m.SessionRow(entry.session, entry.resumable, created_s, used_s, OWNER, entry.holder)
        return m.SaveSession(row)

    def _delete(self, entry: Entry) -> SessionWrite:
        entry.deleting = True
        return m.DeleteSession(entry.session.key)

    def _write(self, writes: Sequence[SessionWrite]) -> Sequence[SessionEffect]:
        if not writes:
            return _NOTHING
        self._last_write_id += 1
        write = m.Write(self._last_write_id, tuple(writes))
        self._writes[write.write_id] = write.writes
        return (write,)

    # Writes, coming back.

    def _written(self, write_id: int, error: str, now_s: float) -> Sequence[SessionEffect]:
        effects: list[SessionEffect] = []
        if write_id == self._flush_id:
            self._flush_id = 0
        for write in self._writes.pop(write_id, ()):
            match write:
                case m.SaveSession(row):
                    self._saved(row.session.key, error, now_s, effects)
                case m.TouchSession(key):
                    if error and key in self._entries:
                        self._entries[key].stored_s = -math.inf
                case m.DeleteSession(key):
                    self._deleted(key, error, effects)
                case _:
                    assert_never(write)
        return effects

    def _saved(
        self, key: str, error: str, now_s: float, effects: list[SessionEffect]
    ) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.saving = False
        if entry.phase is Phase.CREATING:
            self._created(entry, error, effects)
        elif error:
            entry.changed = True
        elif entry.changed and entry.phase is Phase.LIVE:
            effects.extend(self._write([self._save(entry, now_s)]))

    def _created(self, entry: Entry, error: str, effects: list[SessionEffect]) -> None:
        (ask_id,), entry.asks = entry.asks, []
        front_id, entry.front_id = entry.front_id, ""
        del self._unfinished[entry.session.key]
        if error:
            self._ledger.remove(entry)
            effects.append(m.Refuse(ask_id, m.Refusal.NOT_STORED))
        else:
            self._ledger.make_live(entry)
            effects.append(m.Accept(ask_id, front_id, entry.session))

    def _deleted(self, key: str, error: str, effects: list[SessionEffect]) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.deleting = False
        if not error:
            self._ledger.remove(entry)
            effects.append(m.TellEnded(self._unfinished[key]))
            effects.extend(m.Confirm(ask_id, True) for ask_id in entry.asks)
        elif entry.revives:
            del self._unfinished[key]
            self._ledger.revive(entry)
        else:
            effects.extend(m.Refuse(ask_id, m.Refusal.NOT_STORED) for ask_id in entry.asks)
        entry.asks = []

    # Now and then.

    def _sweep(self, now_s: float) -> Sequence[SessionEffect]:
        limits, ledger = self.limits, self._ledger
        writes: list[SessionWrite] = []
        while (oldest := ledger.longest_unused()) is not None and (
            now_s - oldest.used_s >= limits.idle_timeout_s
        ):
            writes.append(self._begin_end(oldest, EndReason.EXPIRED))
        for entry in self._entries.values():
            if now_s - entry.born_s < limits.lifetime_max_s:
                break
            if entry.phase is Phase.LIVE:
                writes.append(self._begin_end(entry, EndReason.EXPIRED))
        while ledger.excess > 0 and (victim := ledger.to_give_way("")):
            writes.append(self._begin_end(victim, EndReason.EVICTED))
        for entry in self._entries.values():
            if entry.phase is Phase.ENDING and not entry.deleting:
                writes.append(self._delete(entry))
        effects = [*self._write(writes)]
        if not self._flush_id:  # else a store that hangs would be given ever more to do
            effects += self._flush(now_s)
        self._generation += 1
        effects.append(m.Wake(limits.flush_interval_s, self._generation))
        return effects

    def _flush(self, now_s: float) -> Sequence[SessionEffect]:
        """Write down last uses, and what was set and could not be saved."""
        ahead_s = self._wall_s() - now_s
        writes: list[SessionWrite] = []
        for key, entry in self._entries.items():
            if entry.phase is not Phase.LIVE:
                continue
            if entry.uses:
                entry.used_s = now_s
            if entry.changed:
                writes.append(self._save(entry, now_s))
            elif entry.used_s > entry.stored_s:
                entry.stored_s = entry.used_s
                writes.append(m.TouchSession(key, entry.used_s + ahead_s))
        effects = self._write(writes)
        if writes:
            self._flush_id = self._last_write_id
        return effects

"""What must be true of sessions, kept beside the policy by somebody who trusts it in nothing.

The model is the rest of the world: the store, which settles writes in order, the clients, who know
ids and wait for answers, and the crashes. It raises `Violation` at the first effect that breaks a
promise. Where the policy may choose, it accepts either choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import SessionEffect, SessionMessage
from proxy_actors.policy.session_ledger import Phase, hash_of_principal, key_of
from proxy_actors.policy.session_rows import apply
from proxy_actors.policy.session_shares import Rank, SessionShares
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy

AHEAD_S = 5000.0
GONE = None


class Violation(AssertionError):
    """The policy broke a rule."""


def keys_of(ranks: dict[Any, list[Rank]]) -> dict[Any, list[str]]:
    return {name: [key for *_, key in listed] for name, listed in ranks.items()}


def check(rule: bool, text: str) -> None:
    if not rule:
        raise Violation(text)


class Known:
    """A session as it should be. `phase` is GONE in the end; `level` is what its client set.

    Its client is `owner`; `holder` is who is known to be it.
    """

    def __init__(self, front_id: str, message: m.CreateSession, now_s: float) -> None:
        self.front_id = front_id
        self.upstream = message.upstream
        self.principal = message.principal
        self.owner = self.holder = message.owner
        self.resumable = message.resumable
        self.born_s = self.used_s = now_s
        self.phase: Phase | None = Phase.CREATING
        self.order = 0
        self.level: str | None = None
        self.revives = False


class Submitted:
    """A write of some incarnation. `error` is None until the store has settled it."""

    def __init__(self, incarnation: int, write: m.Write) -> None:
        self.incarnation = incarnation
        self.write = write
        self.error: str | None = None


class SessionModel:
    """The books. Sessions are by their keys, uses by exchange, askers by ask id."""

    def __init__(self, limits: SessionLimits) -> None:
        self.limits = limits
        self.now_s = 1000.0
        self.incarnation = 1
        self.rows: dict[str, m.SessionRow] = {}
        self.queue: list[Submitted] = []
        self.unfinished: dict[str, m.SessionEnded] = {}
        self.known: dict[str, Known] = {}
        self.uses: dict[int, str] = {}
        self.last_ended = (1 << 41, "")
        self.create_asks: dict[int, str] = {}
        self.end_asks: dict[int, str] = {}
        self.armed = 0
        self.numbers = 0

    # What the policy is handed.

    def token(self) -> str:
        return f"token-{len(self.known)}"

    def wall_s(self) -> float:
        return self.now_s + AHEAD_S

    # What happens outside the policy.

    def commit(self, error: str) -> None:
        """The store settles the oldest write that it has not settled."""
        submitted = next(x for x in self.queue if x.error is None)
        submitted.error = error
        if not error:
            apply(self.rows, submitted.write.writes)
            for key in self.rows:
                check(self.known[key].phase is not GONE, "what was gone is stored again")

    def hear(self) -> m.WriteDone | None:
        """The word on the oldest write arrives; None for an incarnation that is no more."""
        submitted = self.queue.pop(0)
        assert submitted.error is not None
        if submitted.incarnation != self.incarnation:
            return None
        if submitted.error:
            for write in submitted.write.writes:
                if isinstance(write, m.DeleteSession) and self.known[write.key].revives:
                    self._revive(self.known[write.key])
        return m.WriteDone(submitted.write.write_id, submitted.error)

    def crash_actor(self) -> None:
        """Who waits is told; what was underway is to be ended by the next incarnation."""
        self.incarnation += 1
        self.armed = 0
        self.uses.clear()
        self.create_asks.clear()
        self.end_asks.clear()
        for known in self.known.values():
            known.revives = False
            if known.phase is Phase.CREATING:
                known.phase = Phase.ENDING
        self._order_as_stored()

    def crash_process(self) -> None:
        """Only what was committed and is resumable is left."""
        self.queue.clear()
        self.unfinished.clear()
        self.rows = {
            key: replace(row, holder="") for key, row in self.rows.items() if row.resumable
        }
        for key, known in self.known.items():
            if key in self.rows:
                known.phase = Phase.LIVE  # or it was live, or no end of it was confirmed
                known.level = self.rows[key].session.log_level
            else:
                lost = known.phase is Phase.LIVE and known.resumable
                check(not lost, "a session that its client knows is lost")
                known.phase = GONE
        self.crash_actor()

    def _order_as_stored(self) -> None:
        live = self.of(Phase.LIVE)
        for key in live:
            check(key in self.rows, "a session that its client knows is not stored")
            known, row = self.known[key], self.rows[key]
            known.used_s = row.used_s - AHEAD_S
            if row.holder != hash_of_principal(known.owner):
                known.holder = known.principal
        for key in sorted(live, key=lambda key: self.known[key].used_s):
            self.known[key].order = self.number()

    def _revive(self, known: Known) -> None:
        known.revives, known.phase = False, Phase.LIVE
        known.order = min(x.order for x in self.known.values()) - 1

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # What it expects.

    def of(self, phase: Phase | None) -> list[str]:
        return [key for key, known in self.known.items() if known.phase is phase]

    def idle(self, upstream: str | None = None) -> list[str]:
        """Live ones without an open use, longest unused first; those at an upstream, or all."""
        used = set(self.uses.values())
        idle = [key for key in self.of(Phase.LIVE) if key not in used]
        there = [key for key in idle if upstream in (None, self.known[key].upstream)]
        return sorted(there, key=lambda key: self.known[key].order)

    def held(self, upstream: str | None = None) -> Counter[str]:
        """How many each holder has, at an upstream or in all."""
        keys = [*self.of(Phase.LIVE), *self.of(Phase.CREATING)]
        there = (self.known[key] for key in keys)
        return Counter(x.holder for x in there if upstream in (None, x.upstream))

    def occupied(self, upstream: str | None = None) -> int:
        return sum(self.held(upstream).values())

    def most(self, upstream: str | None) -> int:
        """How many there may be, at an upstream or in all."""
        if upstream is None:
            return self.limits.sessions_max
        return self.limits.of_upstream.get(upstream, 99)

    def has_expired(self, key: str) -> bool:
        known = self.known[key]
        idle_s = 0.0 if key in self.uses.values() else self.now_s - known.used_s
        too_old = self.now_s - known.born_s >= self.limits.lifetime_max_s
        return idle_s >= self.limits.idle_timeout_s or too_old

    # What the policy does.

    def observe(
        self, message: SessionMessage, effects: Sequence[SessionEffect], ask_id: int = 0
    ) -> None:
        """Check the effects of one message and enter them in the books."""
        match message:
            case m.BeginUse():
                self._begun(message, effects)
            case m.EndUse(_, exchange_id):
                check(not effects, "the end of a use had effects")
                self._use_ended(exchange_id)
            case m.CreateSession():
                self._created(message, effects, ask_id)
            case m.EndSession(key):
                self._end_wanted(key, ask_id)
            case m.SetLogLevel(key, level):
                if self.known[key].phase is Phase.LIVE:
                    self.known[key].level = level
        for effect in effects:
            self._enter(effect, message)
        if isinstance(message, m.SessionSweepDue):
            self._swept()

    def _begun(self, message: m.BeginUse, effects: Sequence[SessionEffect]) -> None:
        key = key_of(message.front_id)
        known = self.known.get(key)
        usable = (
            known is not None
            and known.phase is Phase.LIVE
            and known.principal == message.principal
            and (key in self.uses.values() or not self._is_idle_too_long(known))
        )
        self.numbers = max(self.numbers, message.exchange_id)
        check(bool(effects), "a use was not answered")
        check(isinstance(effects[0], m.Admit if usable else m.Reject), f"use {usable=}")
        if known is not None and usable:
            check(key in self.rows, "what is not durable was used")
            self.uses[message.exchange_id] = key
            known.used_s = self.now_s
            if known.holder == known.principal:
                known.holder = known.owner

    def _is_idle_too_long(self, known: Known) -> bool:
        return self.now_s - known.used_s >= self.limits.idle_timeout_s

    def _use_ended(self, exchange_id: int) -> None:
        key = self.uses.pop(exchange_id, None)
        if key is not None:
            self.last_ended = (exchange_id, key)
            known = self.known[key]
            known.used_s = self.now_s
            if key not in self.uses.values():
                known.order = self.number()

    def _created(
        self, message: m.CreateSession, effects: Sequence[SessionEffect], ask_id: int
    ) -> None:
        full, upstream = not self._leaves_enough(message.owner, None), None
        if not self._leaves_enough(message.owner, message.upstream):
            full, upstream = True, message.upstream
        if isinstance(effects[0], m.Refuse):
            left = self.most(upstream) > self.occupied(upstream)
            refusal = m.Refusal.SHARE if left else m.Refusal.FULL
            check(effects == (m.Refuse(ask_id, refusal),), f"{effects}, not {refusal}")
            check(full, "refused though there is room")
            check(not left or self.held(upstream)[message.owner] > 0, "who has none was refused")
            for key in self.idle(upstream):
                check(not self._gives(key, message.owner, upstream), "refused without need")
            return
        (write,) = effects
        check(isinstance(write, m.Write), "a creation was not written down")
        assert isinstance(write, m.Write)
        deleted = [x.key for x in write.writes if isinstance(x, m.DeleteSession)]
        check(len(deleted) == full, f"{deleted} made room")
        for key in deleted:
            self._made_room(key, message.owner, upstream)
            self.known[key].phase, self.known[key].revives = Phase.ENDING, True
        front_id = f"v1.0.{self.token()}"
        known = Known(front_id, message, self.now_s)
        self.known[key_of(front_id)] = known
        self.create_asks[ask_id] = key_of(front_id)
        (saved,) = [x.row for x in write.writes if isinstance(x, m.SaveSession)]
        check(saved.session.key == key_of(front_id), "not the hash of the id")
        check(saved.session.principal == hash_of_principal(known.principal), "not bound")
        check(saved.resumable == known.resumable, "more or less durable than asked for")
        check(saved.holder == hash_of_principal(known.owner), "another's share")

    def _leaves_enough(self, owner: str, upstream: str | None) -> bool:
        """Whether one more leaves others an eighth of what the owner has already."""
        left = self.most(upstream) - self.occupied(upstream) - 1
        return left >= self.held(upstream)[owner] / 8

    def _gives(self, key: str, owner: str, upstream: str | None) -> bool:
        """Whether this idle session may end for one more of the owner's: its own always may."""
        held, holder = self.held(upstream), self.known[key].holder
        return holder == owner or held[holder] > held[owner]

    def _made_room(self, given: str, owner: str, upstream: str | None) -> None:
        """Whoever holds most with the newcomer gave what it had not used for longest."""
        check(given in self.idle(upstream), "what is in use made room, or what is elsewhere")
        check(self._gives(given, owner, upstream), "ended for one who holds as many")
        held = self.held(upstream) + Counter([owner])
        giver = self.known[given].holder
        for key in self.idle(upstream):
            other = self.known[key].holder
            check(held[other] <= held[giver], "who holds more gave nothing")
            if held[other] == held[giver]:
                check(other != owner or giver == owner, "another's ended before one's own")
                earlier = self.known[key].order < self.known[given].order
                check(not earlier or giver == owner != other, "what was used last made room")

    def _end_wanted(self, key: str, ask_id: int) -> None:
        known = self.known[key]
        known.revives = False
        if known.phase is Phase.LIVE:
            known.phase = Phase.ENDING
        if ask_id:
            self.end_asks[ask_id] = key

    def _enter(self, effect: SessionEffect, message: SessionMessage) -> None:
        match effect:
            case m.Accept(ask_id, front_id, session):
                key = self.create_asks.pop(ask_id, "")
                check(key == session.key, "a creation answered twice, or never asked for")
                check(front_id == self.known[key].front_id, "another id than the one stored")
                check(key in self.rows, "an id was given away before it was durable")
                self.known[key].phase, self.known[key].order = Phase.LIVE, self.number()
            case m.Refuse(ask_id, refusal):
                self._refused(ask_id, refusal, message)
            case m.Confirm(ask_id, existed):
                check(ask_id in self.end_asks, "an end answered twice, or never asked for")
                key = self.end_asks.pop(ask_id)
                check(not existed or key not in self.rows, "confirmed before it was durable")
                present = self.known[key].phase in (Phase.LIVE, Phase.ENDING)
                check(not present, "confirmed though it is there")
            case m.TellEnded(ended):
                key = ended.session.key
                check(self.known[key].phase is Phase.ENDING, "told twice, or of nothing")
                check(key not in self.rows, "told before it was durable")
                self.known[key].phase = GONE
                del self.unfinished[key]
            case m.Write():
                self._submitted(effect)
            case m.Wake(_, generation):
                self.armed = generation

    def _refused(self, ask_id: int, refusal: m.Refusal, message: SessionMessage) -> None:
        if refusal in (m.Refusal.FULL, m.Refusal.SHARE):
            check(isinstance(message, m.CreateSession), "full, at the wrong time")
        elif ask_id in self.create_asks:
            key = self.create_asks.pop(ask_id)
            check(key not in self.rows, "refused, but stored")
            self.known[key].phase = GONE
        else:
            check(ask_id in self.end_asks, "an answer for nobody")
            key = self.end_asks.pop(ask_id)
            check(self.known[key].phase is Phase.ENDING, "an end was forgotten")

    def _submitted(self, effect: m.Write) -> None:
        check(bool(effect.writes), "nothing was written")
        for write in effect.writes:
            if isinstance(write, m.DeleteSession):
                known = self.known[write.key]
                if known.phase is Phase.LIVE and self._may_be_ended(write.key):
                    known.phase = Phase.ENDING
                check(known.phase is Phase.ENDING, "a live session was deleted")
            else:
                key = write.row.session.key if isinstance(write, m.SaveSession) else write.key
                phase = self.known[key].phase
                check(phase in (Phase.LIVE, Phase.CREATING), "a write undoes an end")
        self.queue.append(Submitted(self.incarnation, effect))

    def _may_be_ended(self, key: str) -> bool:
        if self.has_expired(key):
            return True
        self.known[key].revives = True
        self._made_room(key, "", None)
        return self.occupied() > self.limits.sessions_max

    def _swept(self) -> None:
        """Nothing that should end was overlooked, and what failed is tried again."""
        check(not any(map(self.has_expired, self.idle()[:1])), "an expired session lives")
        for key in self.of(Phase.LIVE):
            young = self.now_s - self.known[key].born_s < self.limits.lifetime_max_s
            check(young, "a session lives for ever")
        underway = {
            write.key
            for submitted in self.queue
            if submitted.incarnation == self.incarnation
            for write in submitted.write.writes
            if isinstance(write, m.DeleteSession)
        }
        check(set(self.of(Phase.ENDING)) <= underway, "an end is not tried again")

    # What holds between messages.

    def _check_shares(self, shares: SessionShares, upstream: str | None) -> None:
        """Look through all sessions for what the policy has listed."""
        held = {hash_of_principal(x): number for x, number in self.held(upstream).items()}
        check(shares.held == held, "shares are miscounted")
        check(shares.occupied == sum(held.values()), "places are miscounted")
        idle: dict[str, list[str]] = {}
        firsts: dict[int, list[str]] = {}
        for key in self.idle(upstream):
            holder = hash_of_principal(self.known[key].holder)
            if holder not in idle:
                firsts.setdefault(held[holder], []).append(key)
            idle.setdefault(holder, []).append(key)
        check(keys_of(shares.idle) == idle, "what a holder could give is wrong")
        check(keys_of(shares.firsts) == firsts, "who could give is wrong")

    def check_against(self, policy: SessionPolicy) -> None:
        """Compare the books with the policy's."""
        ledger = policy._ledger
        phases = {key: entry.phase for key, entry in ledger.entries.items()}
        expected = {key: x.phase for key, x in self.known.items() if x.phase is not GONE}
        check(phases == expected, f"{phases} are not {expected}")
        check(list(ledger.idle) == self.idle(), "the idle are not in order")
        self._check_shares(ledger._shares, None)
        for upstream, shares in ledger._shares_at.items():
            self._check_shares(shares, upstream)
        uses = list(self.uses.values())
        for key, entry in ledger.entries.items():
            check(entry.uses == uses.count(key), "uses are miscounted")
        notes = {key for key, phase in phases.items() if phase is not Phase.LIVE}
        check(set(self.unfinished) == notes, "the notes for the next incarnation are wrong")
        for key in self.of(Phase.LIVE):
            check(key in self.rows, "a session that its client knows is not stored")
            saved = self.rows[key].session.log_level == self.known[key].level
            check(saved or bool(self.queue) or ledger.entries[key].changed, "a level is lost")
        idle_store = not any(x.incarnation == self.incarnation for x in self.queue)
        check(not idle_store or not (self.create_asks or self.end_asks), "asked and forgotten")

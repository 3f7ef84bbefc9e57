"""How the session policy creates, bounds and ends sessions, rule by rule (THR-T5).

The interplay of all rules, with failures and crashes, is in test_sessions_exhaustive.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import (
    DeleteSession,
    EndReason,
    Refusal,
    SaveSession,
    SessionEffect,
    SessionMessage,
    SessionRow,
    SessionWrite,
    TouchSession,
)
from proxy_actors.policy.session_ledger import SessionGauges, hash_of_principal, key_of
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy

LIMITS = SessionLimits(
    sessions_max=3, idle_timeout_s=100.0, lifetime_max_s=1000.0, flush_interval_s=30.0
)
UPSTREAM = "up"
OTHER = "other"
AHEAD_S = 1_700_000_000.0
ASK = 7


class Bench:
    """A registry with a store that says what the test says. The monotonic clock starts at 5000."""

    def __init__(
        self, limits: SessionLimits = LIMITS, rows: Sequence[SessionRow] = ()
    ) -> None:
        self.now_s = 5000.0
        self.tokens = 0
        self.unfinished: dict[str, m.SessionEnded] = {}
        self.policy = SessionPolicy(limits, self.token, self.wall_s, self.unfinished)
        self.policy.load(rows, {UPSTREAM: [""], OTHER: [""]}, self.now_s)
        self.started = self.tell(m.SessionSweepDue(0))
        self.generation = 1

    def token(self) -> str:
        self.tokens += 1
        return f"token-{self.tokens}"

    def wall_s(self) -> float:
        return self.now_s + AHEAD_S

    def tell(self, message: SessionMessage, ask_id: int = 0) -> list[SessionEffect]:
        return list(self.policy.handle(message, self.now_s, ask_id))

    def ask(
        self,
        principal: str = "alice",
        params: bytes = b"{}",
        resumable: bool = True,
        upstream: str = UPSTREAM,
        owner: str = "",
    ) -> list[SessionEffect]:
        """Ask for a session."""
        create = m.CreateSession(
            principal, upstream, "", "theirs", "2025-11-25", params, resumable, owner or principal
        )
        return self.tell(create, ASK)

    def create(
        self, principal: str = "alice", upstream: str = UPSTREAM, owner: str = ""
    ) -> str:
        """Create a session; return its id."""
        (write,) = self.ask(principal, upstream=upstream, owner=owner)
        *_, accepted = self.written(write)
        assert isinstance(accepted, m.Accept)
        return accepted.front_id

    def written(self, write: SessionEffect, error: str = "") -> list[SessionEffect]:
        """Have the store answer a write."""
        assert isinstance(write, m.Write)
        return self.tell(m.WriteDone(write.write_id, error))

    def use(self, front_id: str, principal: str = "alice", exchange_id: int = 1) -> bool:
        """Begin a use; say whether it was admitted."""
        first, *_ = self.tell(m.BeginUse(front_id, principal, exchange_id))
        assert isinstance(first, m.Admit | m.Reject)
        return isinstance(first, m.Admit)

    def touch(self, front_id: str, principal: str = "alice") -> None:
        """Use a session for a moment."""
        assert self.use(front_id, principal, 99)
        self.tell(m.EndUse(exchange_id=99))

    def sweep(self) -> tuple[SessionWrite, ...]:
        """Let the sweep come; return what it wrote, which the store has not answered."""
        *effects, wake = self.tell(m.SessionSweepDue(self.generation))
        assert isinstance(wake, m.Wake)
        self.generation = wake.generation
        return tuple(x for effect in effects for x in writes_of(effect))

    def alive(self, front_id: str, principal: str = "alice") -> bool:
        """Whether the session can be used; leaves it as it was."""
        alive = self.use(front_id, principal, 98)
        self.tell(m.EndUse(exchange_id=98))
        return alive


def writes_of(effect: SessionEffect) -> tuple[SessionWrite, ...]:
    assert isinstance(effect, m.Write)
    return effect.writes


def row_of(
    front_id: str,
    created_s: float,
    used_s: float,
    upstream: str = UPSTREAM,
    who: str = "alice",
) -> SessionRow:
    session = m.Session(
        key_of(front_id), hash_of_principal(who), upstream, "", "theirs", "2025-11-25", b"{}"
    )
    return SessionRow(session, True, created_s, used_s)


# Creation.


def test_id_leaves_when_its_row_is_durable_and_not_before() -> None:
    bench = Bench()
    (write,) = bench.ask()
    (saved,) = writes_of(write)
    assert isinstance(saved, SaveSession)
    assert saved.row.session.key == key_of("v1.0.token-1")
    assert not bench.alive("v1.0.token-1")
    assert bench.written(write) == [m.Accept(ASK, "v1.0.token-1", saved.row.session)]
    assert bench.alive("v1.0.token-1")


def test_row_has_hashes_for_what_clients_hold_and_wall_clock_times() -> None:
    """THR-T5: SQLite stores only hashes."""
    bench = Bench()
    (write,) = bench.ask("alice", b'{"x":1}')
    (saved,) = writes_of(write)
    assert saved == SaveSession(
        SessionRow(
            m.Session(
                key=key_of("v1.0.token-1"),
                principal=hash_of_principal("alice"),
                upstream=UPSTREAM,
                endpoint="",
                upstream_session_id="theirs",
                version="2025-11-25",
                initialize_params=b'{"x":1}',
            ),
            resumable=True,
            created_s=5000.0 + AHEAD_S,
            used_s=5000.0 + AHEAD_S,
            holder=hash_of_principal("alice"),
        )
    )


def test_session_that_could_not_be_stored_is_refused_and_takes_no_place() -> None:
    bench = Bench()
    (write,) = bench.ask()
    assert bench.written(write, "disk full") == [m.Refuse(ASK, Refusal.NOT_STORED)]
    assert bench.policy.gauges() == SessionGauges(0, 0, 0, 0, 0)
    assert bench.unfinished == {}
    assert not bench.alive("v1.0.token-1")


def test_params_beyond_the_bound_are_refused_before_anything_is_written() -> None:
    bench = Bench(SessionLimits(params_bytes_max=10))
    assert bench.ask(params=b"x" * 11) == [m.Refuse(ASK, Refusal.TOO_LARGE)]
    (write,) = bench.ask(params=b"x" * 10)
    assert isinstance(write, m.Write)


# Whose it is.


@pytest.mark.parametrize(
    ("front_id", "principal"),
    [
        ("v1.0.token-1", "mallory"),
        ("v1.0.token-1", ""),
        ("v1.0.token-2", "alice"),
        ("token-1", "alice"),
        (key_of("v1.0.token-1"), "alice"),
        ("", "alice"),
        ("v1.0.token-1 ", "alice"),
        ("V1.0.token-1", "alice"),
    ],
)
def test_all_but_the_id_in_the_hands_of_its_principal_is_unknown(
    front_id: str, principal: str
) -> None:
    """MCP-S-4: 404 in all these cases, so nobody learns which ids there are."""
    bench = Bench()
    bench.create()
    assert bench.tell(m.BeginUse(front_id, principal, 1)) == [m.Reject()]
    assert bench.policy.gauges().uses == 0


# Room.


def test_session_beyond_the_cap_takes_the_place_of_the_one_unused_for_longest() -> None:
    bench = Bench(replace(LIMITS, sessions_max=4))
    first, second, third = (bench.create() for _ in range(3))
    bench.touch(first)
    (write,) = bench.ask()
    deleted, saved = writes_of(write)
    assert deleted == DeleteSession(key_of(second))
    assert isinstance(saved, SaveSession), "in one write: neither without the other"
    assert not bench.alive(second)
    told, accepted = bench.written(write)
    assert isinstance(told, m.TellEnded) and told.ended.reason is EndReason.EVICTED
    assert isinstance(accepted, m.Accept)
    assert [bench.alive(x) for x in (first, second, third)] == [True, False, True]


def test_who_has_most_makes_room_and_for_itself_first() -> None:
    bench = Bench()
    first, second = bench.create(), bench.create()
    bobs = bench.create("bob")
    (write,) = bench.ask("alice")
    assert writes_of(write)[0] == DeleteSession(key_of(first)), "she would have most"
    bench.written(write)
    (write,) = bench.ask("carol")
    assert writes_of(write)[0] == DeleteSession(key_of(second)), "alice has more than bob"
    assert bench.alive(bobs, "bob")


def test_use_that_was_over_for_a_while_counts_from_its_own_end() -> None:
    """Clients keep uses between requests, and the registry takes them back in any order."""
    bench = Bench()
    ids = [bench.create(name) for name in ("alice", "bob", "carol")]
    for number, name in enumerate(("alice", "bob", "carol")):
        assert bench.use(ids[number], name, number + 1)
    bench.now_s += 10.0
    for number, ago_s in ((3, 1.0), (1, 3.0), (2, 5.0)):
        bench.tell(m.EndUse(exchange_id=number, used_s=bench.now_s - ago_s))
    (write,) = bench.ask("dave")
    assert writes_of(write)[0] == DeleteSession(key_of(ids[1])), "bob's was used first"
    bench.written(write, "disk full")
    (write,) = bench.ask("dave")
    assert writes_of(write)[0] == DeleteSession(key_of(ids[1])), "it is the first again"
    bench.written(write)
    bench.now_s += LIMITS.idle_timeout_s - 3.0
    ended = [x.key for x in bench.sweep() if isinstance(x, DeleteSession)]
    assert ended == [key_of(ids[0])]


def test_session_that_lives_on_does_not_keep_others_from_expiring() -> None:
    """It is the next to make room, until the order is looked at anew."""
    bench = Bench(replace(LIMITS, sessions_max=4))
    bobs = bench.create("bob")
    bench.now_s += 50.0
    first, second, carols = bench.create(), bench.create(), bench.create("carol")
    (write,) = bench.ask("dave")
    assert writes_of(write)[0] == DeleteSession(key_of(first)), "alice has most"
    bench.written(write, "disk full")
    assert bench.use(second)
    bench.now_s += 20.0
    bench.touch(carols, "carol")
    bench.tell(m.EndUse(exchange_id=1, used_s=bench.now_s - 10.0))
    bench.now_s += 30.0
    ended = [x.key for x in bench.sweep() if isinstance(x, DeleteSession)]
    assert ended == [key_of(bobs)]


def test_session_is_ended_for_nobody_who_holds_as_many() -> None:
    """All that it could end is in use; others' is not, and stays."""
    bench = Bench(replace(LIMITS, sessions_max=2))
    used, bobs = bench.create("alice"), bench.create("bob")
    assert bench.use(used)
    assert bench.ask("alice") == [m.Refuse(ASK, Refusal.FULL)]
    assert bench.alive(bobs, "bob")
    (write,) = bench.ask("carol")
    assert writes_of(write)[0] == DeleteSession(key_of(bobs)), "she has none"


def test_anonymous_clients_have_the_shares_of_their_addresses() -> None:
    bench = Bench()
    first, second = (bench.create("anonymous", owner="address 1") for _ in range(2))
    other = bench.create("anonymous", owner="address 2")
    bench.touch(first, "anonymous")
    bench.create("anonymous", owner="address 3")
    assert [bench.alive(x, "anonymous") for x in (first, second, other)] == [True, False, True]


def test_session_of_before_a_restart_is_its_client_s_again_once_it_is_used() -> None:
    """Addresses are not written down: till then such sessions have one share together."""
    wall_s = 5000.0 + AHEAD_S
    rows = [row_of(f"{n}", wall_s - 90.0, wall_s - n, who="anonymous") for n in (30.0, 20.0, 10.0)]
    bench = Bench(rows=rows)
    bench.tell(m.BeginUse("30.0", "anonymous", 1, "address 1"))
    bench.tell(m.BeginUse("30.0", "anonymous", 2, "address 2"))
    for exchange_id in (1, 2):
        bench.tell(m.EndUse(exchange_id=exchange_id))
    bench.create("anonymous", owner="address 2")
    ids = ("30.0", "20.0", "10.0")
    assert [bench.alive(x, "anonymous") for x in ids] == [True, False, True]
    bench.create("anonymous", owner="address 1")
    assert [bench.alive(x, "anonymous") for x in ids] == [False, False, True]


def test_session_in_use_makes_no_room_and_none_at_all_is_a_refusal() -> None:
    """A session with an open stream or call is not ended for another's sake: 503."""
    bench = Bench()
    names = ("alice", "bob", "carol")
    ids = [bench.create(name) for name in names]
    for number, front_id in enumerate(ids):
        assert bench.use(front_id, names[number], exchange_id=number + 1)
    assert bench.ask() == [m.Refuse(ASK, Refusal.FULL)]
    assert bench.ask("dave") == [m.Refuse(ASK, Refusal.FULL)]
    bench.tell(m.EndUse(exchange_id=2))
    (write,) = bench.ask("dave")
    assert writes_of(write)[0] == DeleteSession(key_of(ids[1]))


def test_client_whose_sessions_are_all_in_use_leaves_a_ninth_to_others() -> None:
    """It is told that it has its share: 429. Others are let in, and have shares of the rest."""
    bench = Bench(replace(LIMITS, sessions_max=48))
    ids = [bench.create() for _ in range(42)]
    for number, front_id in enumerate(ids, 1):
        assert bench.use(front_id, exchange_id=number)
    assert bench.ask() == [m.Refuse(ASK, Refusal.SHARE)]
    bobs = [bench.create("bob") for _ in range(5)]
    (write,) = bench.ask("bob")
    assert writes_of(write)[0] == DeleteSession(key_of(bobs[0])), "his own makes room"
    bench.written(write)
    assert bench.use(bench.create("carol"), "carol", exchange_id=99), "who has none, the last"
    bench.tell(m.EndUse(exchange_id=7))
    (write,) = bench.ask()
    assert writes_of(write)[0] == DeleteSession(key_of(ids[6])), "she may have another instead"


def test_sessions_that_are_being_created_count_and_make_no_room() -> None:
    bench = Bench()
    for _ in range(2):
        (write,) = bench.ask()
        assert len(writes_of(write)) == 1
    assert bench.ask() == [m.Refuse(ASK, Refusal.SHARE)]
    (write,) = bench.ask("bob")
    assert len(writes_of(write)) == 1
    assert bench.ask("carol") == [m.Refuse(ASK, Refusal.FULL)]


def test_what_was_to_make_room_lives_on_when_nothing_could_be_written() -> None:
    """Its client has done nothing, and has been told nothing."""
    bench = Bench()
    first, *_ = (bench.create() for _ in range(2))
    (write,) = bench.ask()
    assert not bench.alive(first)
    assert bench.written(write, "disk full") == [m.Refuse(ASK, Refusal.NOT_STORED)]
    assert bench.alive(first)
    assert bench.policy.gauges().live == 2


# End.


def test_end_is_confirmed_and_told_when_it_is_durable_and_not_before() -> None:
    bench = Bench()
    front_id = bench.create()
    (write,) = bench.tell(m.EndSession(key_of(front_id), EndReason.DELETED), ASK)
    assert writes_of(write) == (DeleteSession(key_of(front_id)),)
    assert not bench.alive(front_id), "its end has been asked for"
    told, confirmed = bench.written(write)
    assert isinstance(told, m.TellEnded)
    assert told.ended.session.key == key_of(front_id)
    assert told.ended.reason is EndReason.DELETED
    assert confirmed == m.Confirm(ASK, True)


def test_end_that_could_not_be_stored_is_refused_and_tried_again() -> None:
    bench = Bench()
    front_id = bench.create()
    (write,) = bench.tell(m.EndSession(key_of(front_id), EndReason.DELETED), ASK)
    assert bench.written(write, "disk full") == [m.Refuse(ASK, Refusal.NOT_STORED)]
    assert not bench.alive(front_id)
    assert bench.sweep() == (DeleteSession(key_of(front_id)),)


def test_end_of_nothing_is_confirmed_as_that_at_once() -> None:
    bench = Bench()
    assert bench.tell(m.EndSession(key_of("x"), EndReason.DELETED), ASK) == [m.Confirm(ASK, False)]
    assert bench.tell(m.EndSession(key_of("x"), EndReason.LOST)) == []


def test_end_in_the_middle_of_a_call_lets_it_end_and_no_other_begin() -> None:
    bench = Bench()
    front_id = bench.create()
    assert bench.use(front_id)
    (write,) = bench.tell(m.EndSession(key_of(front_id), EndReason.LOST))
    assert not bench.use(front_id, exchange_id=2)
    bench.written(write)
    assert bench.tell(m.EndUse(exchange_id=1)) == []
    assert bench.policy.gauges().live == 0


# Time.


def test_unused_session_ends_at_the_idle_timeout_and_not_before() -> None:
    bench = Bench()
    front_id = bench.create()
    bench.now_s += LIMITS.idle_timeout_s - 0.001
    assert bench.sweep() == ()
    bench.now_s += 0.001
    assert bench.sweep() == (DeleteSession(key_of(front_id)),)


def test_expired_session_is_unknown_before_any_sweep_has_seen_it() -> None:
    bench = Bench()
    front_id = bench.create()
    bench.now_s += LIMITS.idle_timeout_s
    rejected, write = bench.tell(m.BeginUse(front_id, "alice", 1))
    assert rejected == m.Reject()
    assert writes_of(write) == (DeleteSession(key_of(front_id)),)


def test_use_puts_the_idle_timeout_off_from_its_end_on() -> None:
    bench = Bench()
    front_id = bench.create()
    assert bench.use(front_id)
    bench.now_s += 5 * LIMITS.idle_timeout_s
    assert not any(isinstance(x, DeleteSession) for x in bench.sweep()), "a stream is open"
    bench.tell(m.EndUse(exchange_id=1))
    bench.now_s += LIMITS.idle_timeout_s - 1.0
    assert bench.alive(front_id)


def test_no_session_outlives_the_hard_cap_however_it_is_used() -> None:
    """THR-T5: absolute expiry."""
    bench = Bench()
    front_id = bench.create()
    assert bench.use(front_id)
    bench.now_s += LIMITS.lifetime_max_s
    assert DeleteSession(key_of(front_id)) in bench.sweep()
    assert not bench.use(front_id, exchange_id=2)


def test_sweep_comes_again_in_one_interval_and_a_stale_one_does_nothing() -> None:
    bench = Bench()
    assert bench.started == [m.Wake(LIMITS.flush_interval_s, 1)]
    assert bench.tell(m.SessionSweepDue(0)) == []
    assert bench.tell(m.SessionSweepDue(1)) == [m.Wake(LIMITS.flush_interval_s, 2)]


# Last uses.


def test_last_use_is_written_down_with_the_next_sweep_and_once() -> None:
    """It lags one flush interval: a write for every request would be one sync for each."""
    bench = Bench()
    front_id = bench.create()
    bench.now_s += 10.0
    bench.touch(front_id)
    used_s = bench.now_s + AHEAD_S
    bench.now_s += 20.0
    effects = bench.tell(m.SessionSweepDue(1))
    assert writes_of(effects[0]) == (TouchSession(key_of(front_id), used_s),)
    bench.written(effects[0])
    assert bench.tell(m.SessionSweepDue(2)) == [m.Wake(LIMITS.flush_interval_s, 3)]


def test_session_in_use_is_last_used_now() -> None:
    bench = Bench()
    front_id = bench.create()
    assert bench.use(front_id)
    bench.now_s += 50.0
    assert bench.sweep() == (TouchSession(key_of(front_id), bench.now_s + AHEAD_S),)


def test_stopping_writes_last_uses_down_and_ends_nothing() -> None:
    """Stopping the proxy ends no session."""
    bench = Bench()
    front_id, _ = bench.create(), bench.create()
    bench.now_s += 1.0
    bench.touch(front_id)
    (write,) = bench.tell(m.FlushDue())
    assert writes_of(write) == (TouchSession(key_of(front_id), bench.now_s + AHEAD_S),)


def test_store_that_hangs_is_given_no_more_last_uses() -> None:
    bench = Bench()
    front_id = bench.create()
    for _ in range(5):
        bench.now_s += 30.0
        bench.touch(front_id)
        bench.sweep()
    assert len(bench.policy._writes) == 1


def test_last_use_that_could_not_be_written_is_written_with_the_next_sweep() -> None:
    bench = Bench()
    front_id = bench.create()
    bench.now_s += 1.0
    bench.touch(front_id)
    write, _ = bench.tell(m.SessionSweepDue(1))
    bench.written(write, "disk full")
    (touched,) = writes_of(bench.tell(m.SessionSweepDue(2))[0])
    assert touched == TouchSession(key_of(front_id), bench.now_s + AHEAD_S)


# What clients set.


def test_what_a_client_sets_is_saved_one_write_at_a_time() -> None:
    bench = Bench()
    front_id = bench.create()
    key = key_of(front_id)
    (first,) = bench.tell(m.SetLogLevel(key, "debug"))
    assert bench.tell(m.SetSubscription(key, "file:///a", True)) == []
    assert bench.tell(m.SetLogLevel(key, "error")) == []
    (second,) = bench.written(first)
    (saved,) = writes_of(second)
    assert isinstance(saved, SaveSession)
    session = saved.row.session
    assert (session.log_level, session.subscriptions) == ("error", ("file:///a",))
    assert bench.written(second) == []


def test_stopping_writes_down_what_was_set_while_another_write_is_underway() -> None:
    """Nobody will hear how that one ended."""
    bench = Bench()
    key = key_of(bench.create())
    bench.tell(m.SetLogLevel(key, "debug"))
    assert bench.tell(m.SetSubscription(key, "file:///a", True)) == []
    (write,) = bench.tell(m.FlushDue())
    (saved,) = writes_of(write)
    assert isinstance(saved, SaveSession)
    session = saved.row.session
    assert (session.log_level, session.subscriptions) == ("debug", ("file:///a",))


def test_what_is_set_already_is_not_written() -> None:
    bench = Bench()
    key = key_of(bench.create())
    bench.written(bench.tell(m.SetLogLevel(key, "debug"))[0])
    bench.written(bench.tell(m.SetSubscription(key, "file:///a", True))[0])
    assert bench.tell(m.SetLogLevel(key, "debug")) == []
    assert bench.tell(m.SetSubscription(key, "file:///a", True)) == []
    assert bench.tell(m.SetSubscription(key, "file:///b", False)) == []


def test_subscriptions_are_kept_up_to_a_bound() -> None:
    bench = Bench(SessionLimits(subscription_bytes_max=10))
    key = key_of(bench.create())
    bench.written(bench.tell(m.SetSubscription(key, "12345", True))[0])
    assert bench.tell(m.SetSubscription(key, "123456", True)) == []
    bench.written(bench.tell(m.SetSubscription(key, "54321", True))[0])
    bench.written(bench.tell(m.SetSubscription(key, "12345", False))[0])
    assert bench.tell(m.SetSubscription(key, "123456", True)) == []


# Sessions that were opened anew at their upstreams.


def test_new_id_of_the_upstream_is_saved_and_who_asked_gets_the_session() -> None:
    bench = Bench()
    key = key_of(bench.create())
    write, replaced = bench.tell(m.MoveSession(key, ("", "theirs"), ("", "new")), ASK)
    (saved,) = writes_of(write)
    assert isinstance(saved, SaveSession) and isinstance(replaced, m.AnswerSession)
    assert saved.row.session == replaced.session
    assert saved.row.session.upstream_session_id == "new"
    assert replaced.ask_id == ASK
    (again,) = bench.tell(m.MoveSession(key, ("", "theirs"), ("", "newer")), ASK)
    assert again == replaced  # another was opened meanwhile, and stays


def test_session_that_has_ended_gets_no_new_id() -> None:
    bench = Bench()
    key = key_of(bench.create())
    bench.tell(m.EndSession(key, EndReason.DELETED), ASK)
    assert bench.tell(m.MoveSession(key, ("", "theirs"), ("", "new")), ASK + 1) == [
        m.AnswerSession(ASK + 1, None)
    ]


# After a restart.


def test_restart_goes_on_with_what_is_stored_and_its_age() -> None:
    wall_s = 5000.0 + AHEAD_S
    bench = Bench(rows=[row_of("old", wall_s - 500.0, wall_s - 60.0)])
    bench.now_s += 39.5
    assert bench.sweep() == ()
    bench.now_s += 0.5
    assert bench.sweep() == (DeleteSession(key_of("old")),)


def test_time_goes_by_while_the_proxy_is_down() -> None:
    wall_s = 5000.0 + AHEAD_S
    rows = [
        row_of("idle", wall_s - 200.0, wall_s - LIMITS.idle_timeout_s),
        row_of("old", wall_s - LIMITS.lifetime_max_s, wall_s - 1.0),
        row_of("good", wall_s - 200.0, wall_s - 1.0),
    ]
    bench = Bench(rows=rows)
    write, _ = bench.started
    assert set(writes_of(write)) == {DeleteSession(key_of("idle")), DeleteSession(key_of("old"))}
    assert [bench.alive(x) for x in ("idle", "old", "good")] == [False, False, True]


def test_rows_from_the_future_count_as_of_now() -> None:
    """FLT-P9: the wall clock has gone back; nobody's session lives longer by it."""
    wall_s = 5000.0 + AHEAD_S
    rows = [row_of("young", wall_s + 1e6, wall_s), row_of("idle", wall_s, wall_s + 1e6)]
    bench = Bench(rows=rows)
    assert bench.use("young")
    bench.now_s += LIMITS.idle_timeout_s
    assert DeleteSession(key_of("idle")) in bench.sweep()
    bench.now_s += LIMITS.lifetime_max_s - LIMITS.idle_timeout_s
    assert DeleteSession(key_of("young")) in bench.sweep()


def test_sessions_of_another_server_under_the_same_name_end() -> None:
    """Those that can go on after a restart: where a session has a child of its own, that is it."""
    wall_s = 5000.0 + AHEAD_S
    same, other, own = (row_of(id, wall_s, wall_s) for id in ("same", "other", "own"))
    other = replace(other, session=replace(other.session, endpoint="digest"))
    own = replace(own, session=replace(own.session, endpoint="child-1"), resumable=False)
    bench = Bench(rows=[same, other, own])
    write, _ = bench.started
    assert writes_of(write) == (DeleteSession(key_of("other")),)
    assert bench.alive("same") and bench.alive("own") and not bench.alive("other")
    (told,) = bench.written(write)
    assert isinstance(told, m.TellEnded) and told.ended.reason is EndReason.LOST


def test_sessions_of_an_upstream_that_is_no_longer_configured_end() -> None:
    wall_s = 5000.0 + AHEAD_S
    bench = Bench(rows=[row_of("theirs", wall_s, wall_s, upstream="gone")])
    write, _ = bench.started
    assert writes_of(write) == (DeleteSession(key_of("theirs")),)
    assert not bench.alive("theirs")
    (told,) = bench.written(write)
    assert isinstance(told, m.TellEnded) and told.ended.reason is EndReason.LOST


def test_smaller_cap_than_there_are_sessions_ends_those_unused_for_longest() -> None:
    wall_s = 5000.0 + AHEAD_S
    rows = [row_of(f"{n}", wall_s - 90.0, wall_s - n) for n in (10.0, 40.0, 20.0, 50.0, 30.0)]
    bench = Bench(rows=rows)
    write, _ = bench.started
    assert writes_of(write) == (DeleteSession(key_of("50.0")), DeleteSession(key_of("40.0")))
    assert bench.policy.gauges().live == LIMITS.sessions_max


def test_full_upstream_makes_room_at_itself_alone() -> None:
    """FLT-U16: whose sessions have a process each; beside others, whose bound is another."""
    bench = Bench(replace(LIMITS, sessions_max=10, of_upstream={UPSTREAM: 3}))
    others = [bench.create(upstream=OTHER) for _ in range(4)]
    first, second, third = (bench.create() for _ in range(3))
    assert [bench.alive(id) for id in (first, second, third)] == [False, True, True]
    assert all(bench.alive(id) for id in others)
    assert bench.policy.gauges().live == 6

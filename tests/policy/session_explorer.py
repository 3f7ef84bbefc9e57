"""Breadth-first search through all orders of messages that a small registry can get.

States that differ in nothing but ids are one state. In each state, messages about what does not
exist, or is not the sender's, must change nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import product

from proxy_actors.messages import sessions as m
from proxy_actors.messages.sessions import EndReason, SessionMessage
from proxy_actors.policy.session_ledger import Entry, Phase
from proxy_actors.policy.sessions import SessionLimits, SessionPolicy
from tests.policy.session_model import GONE, SessionModel, Violation, check

UPSTREAM = "up"
INSTANT_S = 0.001
TICK_S = 40.0
AGE_S_MAX = 1000.0
WRITES_MAX = 2


@dataclass(frozen=True)
class Step:
    """Something that happens beside the policy."""

    what: str


Move = SessionMessage | Step


@dataclass(frozen=True)
class Scope:
    """What is explored: the bounds, the moves, how many messages in a row."""

    depth: int
    limits: SessionLimits = SessionLimits(sessions_max=2, idle_timeout_s=1e6, lifetime_max_s=1e6)
    principals: tuple[str, ...] = ("a", "b")
    addresses: tuple[str, ...] = ("",)
    upstreams: tuple[str, ...] = ("up",)
    sessions_max: int = 3
    uses_max: int = 2
    asks_max: int = 2
    failures: bool = False
    levels: bool = False
    time: bool = False
    sweeps: bool = False
    crashes: tuple[str, ...] = ()
    resumable: tuple[bool, ...] = (True,)


@dataclass
class Findings:
    """How much was explored."""

    states: int = 0
    messages: int = 0
    depth: int = 0
    violation: Violation | None = None
    trace: list[Move] = field(default_factory=list)


def explore(scope: Scope) -> Findings:
    """Explore to the end of the scope or to the first violation, whose shortest trace is kept."""
    findings = Findings()
    trace: tuple[Move, ...] = ()
    try:
        model = SessionModel(scope.limits)
        policy = begin(model)
        seen = {state_key(policy, model)}
        layer = [(pickle.dumps((policy, model), 5), trace)]
        for depth in range(1, scope.depth + 1):
            following = []
            for frozen, path in layer:
                policy, model = pickle.loads(frozen)
                trace = path
                moves = list(possible_moves(scope, model))
                probe_with_nonsense(policy, model)
                for move in moves:
                    policy, model = pickle.loads(frozen)
                    trace = (*path, move)
                    policy = step(policy, model, move)
                    findings.messages += 1
                    key = state_key(policy, model)
                    if key not in seen:
                        seen.add(key)
                        following.append((pickle.dumps((policy, model), 5), trace))
            layer, findings.depth = following, depth
            if not layer:
                break
        findings.states = len(seen)
    except Violation as violation:
        findings.violation, findings.trace = violation, list(trace)
    except Exception as error:  # a policy that raises is as wrong as one that decides wrongly
        findings.violation, findings.trace = Violation(repr(error)), list(trace)
    return findings


def begin(model: SessionModel) -> SessionPolicy:
    """Start an incarnation with what is stored."""
    policy = SessionPolicy(model.limits, model.token, model.wall_s, model.unfinished)
    policy.load(model.rows.values(), {UPSTREAM: [""], "other": [""]}, model.now_s)
    sweep = m.SessionSweepDue(0)
    model.observe(sweep, policy.handle(sweep, model.now_s))
    model.check_against(policy)
    return policy


def step(policy: SessionPolicy, model: SessionModel, move: Move) -> SessionPolicy:
    """Let one thing happen; return the incarnation that lives afterwards."""
    model.now_s += INSTANT_S
    message: SessionMessage | None = None
    match move:
        case Step("time passes"):
            model.now_s += TICK_S
        case Step("commit"):
            model.commit("")
        case Step("fail"):
            model.commit("disk full")
        case Step("hear"):
            message = model.hear()
        case Step("actor crashes"):
            model.crash_actor()
            return begin(model)
        case Step("process crashes"):
            model.crash_process()
            return begin(model)
        case Step():
            raise AssertionError(move)
        case _:
            message = move
    if message is not None:
        asked = isinstance(message, m.CreateSession | m.EndSession)
        ask_id = model.number() if asked and not is_told(message) else 0
        model.observe(message, policy.handle(message, model.now_s, ask_id), ask_id)
    model.check_against(policy)
    return policy


def is_told(message: SessionMessage) -> bool:
    """Upstreams and forwarders tell of lost sessions; nobody waits then."""
    return isinstance(message, m.EndSession) and message.reason is EndReason.LOST


def possible_moves(scope: Scope, model: SessionModel) -> Iterator[Move]:
    """Yield everything that can happen next."""
    present = [key for key, known in model.known.items() if known.phase is not GONE]
    if len(present) < scope.sessions_max:
        for principal, resumable, upstream, address in product(
            scope.principals, scope.resumable, scope.upstreams, scope.addresses
        ):
            yield creation(principal, resumable, upstream, address)
    for key in present:
        known = model.known[key]
        if known.phase is Phase.CREATING:
            continue
        if len(model.uses) < scope.uses_max:
            yield m.BeginUse(
                known.front_id, known.principal, model.numbers + 1, known.owner
            )
        if len(model.end_asks) < scope.asks_max:
            yield m.EndSession(key, EndReason.DELETED)
        yield m.EndSession(key, EndReason.LOST)
        if scope.levels:
            yield m.SetLogLevel(key, "error" if known.level == "debug" else "debug")
    for exchange_id in model.uses:
        yield m.EndUse("", exchange_id)
    if any(submitted.error is None for submitted in model.queue):
        yield Step("commit")
        if scope.failures:
            yield Step("fail")
    if model.queue and model.queue[0].error is not None:
        yield Step("hear")
    if scope.sweeps:
        yield m.SessionSweepDue(model.armed)
        if len(model.queue) < WRITES_MAX:  # it comes once in a life, and writes whatever there is
            yield m.FlushDue()
    if scope.time:
        yield Step("time passes")
    for crash in scope.crashes:
        yield Step(f"{crash} crashes")


def creation(
    principal: str, resumable: bool = True, upstream: str = UPSTREAM, address: str = ""
) -> m.CreateSession:
    owner = address or principal
    return m.CreateSession(principal, upstream, "", None, "2025-11-25", b"{}", resumable, owner)


def probe_with_nonsense(policy: SessionPolicy, model: SessionModel) -> None:
    """Tell the policy what must not matter to it."""
    before = state_key(policy, model)
    stranger = "c"
    for key, known in model.known.items():
        probes = [(known.front_id, stranger), (key, known.principal)]
        if known.phase is not Phase.LIVE:
            probes.append((known.front_id, known.principal))
        for front_id, principal in probes:
            effects = policy.handle(m.BeginUse(front_id, principal, 1 << 40), model.now_s)
            check(list(effects) == [m.Reject()], f"{known.phase}: {principal} got {effects}")
    nonsense: list[SessionMessage] = [
        m.EndUse("", 1 << 40),
        m.EndUse("", model.last_ended[0]),
        m.EndUse("nobody's"),
        m.EndSession("nobody's", EndReason.LOST),
        m.SetLogLevel("nobody's", "debug"),
        m.WriteDone(1 << 40, ""),
        m.WriteDone(1 << 40, "disk full"),
        m.SessionSweepDue(model.armed - 1),
        *(m.EndSession(key, EndReason.LOST) for key in model.of(Phase.CREATING)),
        *(m.EndUse(key) for key in model.idle()),
    ]
    for message in nonsense:
        effects = policy.handle(message, model.now_s)
        check(not effects, f"{message} had the effects {effects}")
    effects = policy.handle(m.EndSession("nobody's", EndReason.DELETED), model.now_s, 7)
    check(list(effects) == [m.Confirm(7, False)], "nobody's session was ended")
    check(state_key(policy, model) == before, "nonsense changed the registry")


def state_key(policy: SessionPolicy, model: SessionModel) -> Hashable:
    """Describe a state without ids; times are relative to now."""
    present = [key for key, known in model.known.items() if known.phase is not GONE]
    place = {key: number for number, key in enumerate(present)}
    entries = policy._ledger.entries
    by_use = sorted((key for key in model.rows if key in place), key=lambda k: model.rows[k].used_s)
    return (
        tuple(entry_key(entries.get(key), model, key) for key in present),
        tuple(model.known[key].upstream for key in present),
        tuple(place[key] for key in policy._ledger.idle),
        tuple(place[key] for key in by_use),
        tuple(
            (
                x.incarnation == model.incarnation,
                x.error,
                tuple(
                    (type(write).__name__, place.get(written_key(write)), level_of(write))
                    for write in x.write.writes
                ),
            )
            for x in model.queue
        ),
        bool(policy._flush_id),
        place.get(model.last_ended[1]),
    )


def written_key(write: m.SessionWrite) -> str:
    return write.row.session.key if isinstance(write, m.SaveSession) else write.key


def level_of(write: m.SessionWrite) -> str | None:
    return write.row.session.log_level if isinstance(write, m.SaveSession) else None


def entry_key(entry: Entry | None, model: SessionModel, key: str) -> Hashable:
    known, row = model.known[key], model.rows.get(key)
    assert entry is not None
    return (
        known.phase, known.principal, known.owner, known.holder, known.resumable, known.level,
        entry.uses, len(entry.asks), row is not None and row.holder == entry.holder,
        entry.saving, entry.deleting, entry.changed, entry.revives, entry.used_s > entry.stored_s,
        min((model.now_s - entry.used_s) // TICK_S, AGE_S_MAX),
        min((model.now_s - entry.born_s) // TICK_S, AGE_S_MAX),
        None if row is None else row.session.log_level,
    )  # fmt: skip

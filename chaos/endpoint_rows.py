"""Faults of some of several servers: RELIABILITY 6.3, N16, N17 and N19."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from chaos.fault_proxy import FaultProxy
from chaos.footing import inside
from chaos.http_rows import BROKEN, UNREACHED
from chaos.ledger import ANSWERED
from chaos.relay import RESET
from chaos.scorecard import plays
from chaos.stage import Stage
from tests.wire.proxy_process import ProxyProcess

INTERVAL_S, BASE_S, MAX_S = 1.0, 0.5, 1.5
# The step of the longest: one more than it needs, by Envoy's arithmetic.
STEPS_MAX = 4


@dataclass
class Ejected:
    """One ejection as it was logged; `back` is when it ended, if it has."""

    at: datetime
    seconds: float
    step: int
    back: datetime | None = None


def ejections(proxy: ProxyProcess, endpoint: str) -> list[Ejected]:
    """Those of an endpoint of the victim, in order."""
    found: list[Ejected] = []
    for at, seconds, step in re.findall(
        rf"^(\S+ \S+) .* endpoint_(?:un)?ejected upstream=victim endpoint={endpoint} cause=\S+"
        r"(?: seconds=(\S+) multiplier=(\d+))?$", proxy.log(), re.M,
    ):  # fmt: skip
        logged = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f")
        if seconds:
            found.append(Ejected(logged, float(seconds), int(step)))
        else:
            found[-1].back = logged
    return found


def endpoints(urls: list[str], settings: str, after: str) -> str:
    """The table of an upstream of several endpoints, each of whose calls may go to any."""
    tables = "".join(
        f'[upstreams.victim.endpoints.e{n}]\nurl = "{url}"\n' for n, url in enumerate(urls)
    )
    return f'affinity = "none"\ntransport = "streamable"\n{settings}\n{tables}{after}'


def relayed(stage: Stage, count: int) -> list[FaultProxy]:
    """Start so many servers, each behind a fault proxy."""
    return [
        stage.before(stage.http_server("stateless", apart=True).address) for _ in range(count)
    ]


def shares(stage: Stage, seconds: float) -> tuple[list[float], Counter[str]]:
    """Have four clients call for a while; return each endpoint's share, and how calls ended."""
    before = stage.executed()
    load = stage.load(clients=4)
    time.sleep(seconds)
    load.stop()
    did = [after - earlier for after, earlier in zip(stage.executed(), before)]
    return [n / max(1, sum(did)) for n in did], Counter(row.ended for row in load.rows)


@plays("N16", "of five endpoints one refuses, then all, then all but one; then all are back")
def bad_endpoints(stage: Stage) -> None:
    """Traffic goes to who can serve, evenly, and is refused at once when nobody can."""
    relays = relayed(stage, 5)
    checks = (
        '[upstreams.victim.checks]\nkind = "tcp"\ninterval-s = 0.3\nfast-interval-s = 0.1\n'
        "down-interval-s = 0.3\nfall = 2\n"
    )
    stage.serve(endpoints([relay.url for relay in relays], "panic-percent = 0", checks))
    bad = relays[:]
    stage.chance.shuffle(bad)
    even, _ = shares(stage, 1.0)
    stage.require(min(even) > 0.1, f"shares {even}")
    session = stage.session()
    for count in (1, 5, 4):
        for relay in relays:
            relay.accept()
        for relay in bad[:count]:
            relay.refuse()
            relay.cut(RESET)
        time.sleep(1.5)
        if count == 5:
            for _ in range(5):
                row = stage.call(session)
                stage.ends(row, {"upstream-unavailable", *UNREACHED}, "no")
                stage.within(0.1, row.took_s, "refused")
            continue
        stage.until(lambda: stage.call(session).ended == ANSWERED, 5.0, "those that are up serve")
        parts, ended = shares(stage, 1.0)
        stage.require(ended.keys() == {ANSWERED}, f"{count} bad: {dict(ended)}")
        used = sum(part > 0 for part in parts)
        stage.require(used == 5 - count, f"{count} bad: shares {parts}")
    for relay in relays:
        relay.accept()
    stage.until(lambda: min(shares(stage, 0.5)[0]) > 0.1, 8.0, "all have their shares again")


@plays("N17", "one of two endpoints is bad and good by turns of 0.5 s, to its longest ejection")
def flapping(stage: Stage) -> None:
    """Each ejection is a step longer, up to the most; when it is well, it is forgiven by steps."""
    good, bad = relayed(stage, 2)
    ways = (
        '[upstreams.victim.checks]\nkind = "off"\n[upstreams.victim.outliers]\n'
        f"consecutive-failures = 2\nbase-ejection-s = {BASE_S}\nmax-ejection-s = {MAX_S}\n"
        f"interval-s = {INTERVAL_S}\n"
    )
    proxy = stage.serve(endpoints([good.url, bad.url], "", ways))
    load = stage.load(clients=4)

    def flap() -> bool:
        bad.refuse()
        bad.cut(RESET)
        time.sleep(0.5)
        bad.accept()
        time.sleep(0.5)
        return [x.step for x in ejections(proxy, "e1")].count(STEPS_MAX) > 1

    stage.until(flap, 25.0, "the longest ejection twice")
    stage.until(lambda: ejections(proxy, "e1")[-1].back, MAX_S + INTERVAL_S, "it is back")
    grown = ejections(proxy, "e1")
    stage.figures["ejections s"] = " ".join(f"{x.seconds:g}" for x in grown)
    stage.figures["failed"] = sum(row.ended != ANSWERED for row in load.rows)
    for before, ejected in zip([None, *grown], grown):
        judge_ejection(stage, before, ejected)

    def forgiven() -> bool:
        return inside(proxy).details["guard/victim"]["e1"]["multiplier"] == 0

    back = grown[-1].back or datetime.max
    stage.until(forgiven, (STEPS_MAX + 1) * INTERVAL_S, "all its steps are forgiven")
    took_s = (datetime.now() - back).total_seconds()
    stage.figures["forgiven s"] = round(took_s, 1)
    stage.require(took_s > STEPS_MAX * INTERVAL_S - 0.1, f"it was forgiven in {took_s:.1f} s")
    bad.refuse()
    bad.cut(RESET)
    stage.until(lambda: len(ejections(proxy, "e1")) > len(grown), 2.0, "it is ejected again")
    bad.accept()
    stage.require(ejections(proxy, "e1")[-1].step == 1, "it begins with a step that was forgiven")
    load.stop()
    allowed = {ANSWERED, *UNREACHED, *BROKEN}
    stage.require({row.ended for row in load.rows} <= allowed, "another failure")
    stage.until(lambda: min(shares(stage, 0.5)[0]) > 0.2, 10.0, "it has its share again")


def judge_ejection(stage: Stage, before: Ejected | None, ejected: Ejected) -> None:
    """See that it is a step longer than the one before, and lasted until the sweep that was due.

    An endpoint that was in service for whole intervals, on a busy machine, may have been forgiven
    as many steps.
    """
    fewest = most = 1
    if before is not None and before.back is not None:
        rests_s = (ejected.at - before.back).total_seconds()
        most = min(before.step + 1, STEPS_MAX)
        fewest = min(max(before.step - int(rests_s / INTERVAL_S + 0.05), 0) + 1, STEPS_MAX)
    stage.require(fewest <= ejected.step <= most, f"step {ejected.step} of {fewest} to {most}")
    told_s = min(ejected.step * BASE_S, MAX_S)
    stage.require(ejected.seconds == told_s, f"step {ejected.step} is of {ejected.seconds} s")
    lasted_s = ((ejected.back or datetime.max) - ejected.at).total_seconds()
    bound_s = stage.widened_s(told_s + INTERVAL_S + 0.2)
    stage.require(told_s - 0.05 < lasted_s < bound_s, f"{told_s} s lasted {lasted_s:.2f} s")


@plays("N19", "of three endpoints two take 50 ms, one answers 500 at once; by ejection or not")
def fast_failures(stage: Stage) -> None:
    """It gets less than 5 % of the calls after a second."""
    servers = [
        stage.http_server("stateless", *steps, apart=True)
        for steps in (["pause 0.05", "json"], ["pause 0.05", "json"], ["500"])
    ]
    ejects = stage.chance.choice([True, False])
    stage.figures["outliers"] = ejects
    off = "[upstreams.victim.outliers]\nconsecutive-failures = 0\nsuccess-rate-factor = 0\n"
    stage.serve(
        endpoints(
            [server.url for server in servers], 'balance = "two-choices"', "" if ejects else off
        ),
        warm=False,
    )
    shares(stage, 1.5)
    parts, ended = shares(stage, 2.0)
    stage.figures["share %"] = round(100 * parts[2], 1)
    stage.require(parts[2] < 0.05, f"it gets {parts[2]:.0%}: {dict(ended)}")

"""Faults of some of several servers: RELIABILITY 6.3, N16, N17 and N19."""

from __future__ import annotations

import time
from collections import Counter

from chaos.fault_proxy import FaultProxy
from chaos.http_rows import BROKEN, UNREACHED
from chaos.ledger import ANSWERED
from chaos.relay import RESET
from chaos.scorecard import plays
from chaos.stage import Stage


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


@plays("N17", "one of two endpoints is good and bad by turns of 0.7 s, for 12 s")
def flapping(stage: Stage) -> None:
    """Its ejections last longer and longer, and its share of failures falls."""
    relays = relayed(stage, 2)
    ways = (
        '[upstreams.victim.checks]\nkind = "off"\n[upstreams.victim.outliers]\n'
        "consecutive-failures = 2\nbase-ejection-s = 0.7\nmax-ejection-s = 5\n"
        "interval-s = 0.2\n"
    )
    stage.serve(endpoints([relay.url for relay in relays], "", ways))
    load = stage.load(clients=4)
    began_s = time.monotonic()
    while time.monotonic() - began_s < 12.0:
        relays[1].refuse()
        relays[1].cut(RESET)
        time.sleep(0.7)
        relays[1].accept()
        time.sleep(0.7)
    load.stop()
    half_s = began_s + 6.0
    failed = [row.began_s >= half_s for row in load.rows if row.ended != ANSWERED]
    early, late = failed.count(False), failed.count(True)
    stage.figures.update({"failed early": early, "failed late": late, "of": len(load.rows)})
    allowed = {ANSWERED, *UNREACHED, *BROKEN}
    stage.require({row.ended for row in load.rows} <= allowed, "another failure")
    stage.require(late <= early, "its ejections do not grow")
    stage.until(lambda: min(shares(stage, 0.5)[0]) > 0.2, 10.0, "it has its share again")


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

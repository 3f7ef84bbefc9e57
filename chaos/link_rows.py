"""Faults of the network that need a link of the kernel's own: RELIABILITY 6.3."""

from __future__ import annotations

import time

from chaos.fault_proxy import Latency, Slicer
from chaos.http_rows import BROKEN, LATE, UNREACHED
from chaos.ledger import ANSWERED, CUT
from chaos.link import Link
from chaos.relay import RESET
from chaos.scorecard import plays
from chaos.servers import HttpServer, http_upstream
from chaos.stage import NotHere, Stage

LOSSY_S = 15.0
# A link on which three of ten packets are lost takes its time: so long may a connect take.
PATIENT = "[upstreams.victim.timeouts]\nconnect-s = 10\n"


@plays("N15", "30 % of packets lost, 1 Mbit/s (nftables, tbf); then twice `ip link down` for 1 s")
def bad_link(stage: Stage) -> None:
    """What is slow is no error before its deadline; recovered within 5 s of the link."""
    stage.deadline_s = 10.0
    try:
        link = stage.enter(Link())
    except NotHere as why:
        stage.figures["played by the fault proxy"] = str(why)
        return bad_relay(stage)
    server = stage.enter(HttpServer(stage.journal, host=link.host, inside=link.inside))
    stage.serve(http_upstream(server.url, after=PATIENT))
    session = stage.session()
    link.thin("1mbit")
    link.lose(30)
    load = stage.load(clients=4, text="x" * 3000)
    time.sleep(LOSSY_S)
    load.stop()
    stage.figures.update({"packets lost": link.lost, "delayed": link.delayed})
    stage.require(link.lost and link.delayed, "the link has neither lost nor delayed anything")
    link.heal()
    slow_s = sorted(row.took_s for row in load.rows)
    stage.figures["lossy calls"] = len(slow_s)
    stage.figures["their median ms"] = round(slow_s[len(slow_s) // 2] * 1e3)
    stage.figures["longest ms"] = round(slow_s[-1] * 1e3)
    for row in load.rows:
        early = row.ended != ANSWERED and row.took_s < stage.deadline_s - 0.1
        stage.require(not early, f"an error before the deadline: {row}")
    load = stage.load(clients=4)
    for _ in range(2):
        link.down()
        time.sleep(1.0)
        link.up()
        stage.recovered(5.0, session)
    load.stop()
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *UNREACHED, *BROKEN, *LATE}, f"load ended with {ended}")


def bad_relay(stage: Stage) -> None:
    """The same without loss, by jitter, slices and resets."""
    relay = stage.before(stage.http_server().address)
    stage.serve(http_upstream(relay.url))
    session = stage.session()
    relay.poison(Latency(seconds=0.095, jitter_s=0.075), Slicer(size=1250, pause_s=0.01))
    load = stage.load(clients=4)
    time.sleep(2.0)
    load.stop()
    stage.figures["slow calls"] = len(load.rows)
    stage.require({row.ended for row in load.rows} == {ANSWERED}, "slowness was an error")
    relay.heal()
    load = stage.load(clients=4)
    for _ in range(2):
        relay.refuse()
        relay.cut(RESET)
        time.sleep(0.5)
        relay.accept()
        stage.recovered(5.0, session)
    load.stop()
    ended = {row.ended for row in load.rows}
    stage.require(ended <= {ANSWERED, *UNREACHED, *BROKEN, CUT}, f"load ended with {ended}")

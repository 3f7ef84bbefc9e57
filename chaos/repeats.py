"""`python -m chaos.repeats [--times N] [--within-s S] [--write FILE] [ID ...]`: look for leaks.

Part O2 of the oracle has a bound on memory over twenty repeats of one fault: each row is played so
often on one proxy. The whole oracle judges after each play, memory after the last one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from chaos import report
from chaos.encore import Encore
from chaos.ending import unwind_when_told
from chaos.footing import rss_bytes
from chaos.runner import FAILED, NOT_RUN, Verdict, judge, play_once
from chaos.scorecard import NOT_PLAYED, ROWS, SCENARIOS
from proxy_actors.transports.heap import TRIM_S

GROWTH_MAX = 0.05
TIMES = 20
# Those played when none is named: so short that together they take less than half an hour on a
# machine that does nothing else. In this order, so that little time has some of all kinds.
SHORT = (
    "N10", "P17", "U10", "C9", "U1", "C15", "U12", "C17", "N14", "C13", "U7", "C7", "N20", "C6",
    "N8", "C10", "N11", "C8", "U16", "N7", "C1", "N1", "C16", "P5",
)  # fmt: skip
_ENDS = "the proxy ends in it"
# Rows that one proxy cannot play twice.
ONCE = {
    **dict.fromkeys(["U6", "P1", "P2", "P3", "P4", "P7", "P13", "P14", "P16", "P19"], _ENDS),
    **dict.fromkeys(["P6", "P11", "P12"], "what it is put into lasts as long as the proxy"),
    **dict.fromkeys(["N15", "N18"], "its servers are others in each play"),
    "P18": "its criterion is what the whole log says",
}


def repeat(id: str, seed: int, times: int, leniency: float = 1.0) -> Verdict:
    """Play a row so often on one proxy; `leniency` multiplies the bounds on times."""
    if why := NOT_PLAYED.get(id) or ONCE.get(id):
        return Verdict(id, NOT_RUN, told=(why,))
    return judge(id, Encore(id, seed, leniency), lambda stage: _plays(stage, id, times))


def _plays(stage: Encore, id: str, times: int) -> list[str]:
    took_s: list[float] = []
    rss_mb: list[float] = []
    for n in range(times):
        began_s = time.monotonic()
        if n:
            stage.rewind()
        if told := play_once(stage, SCENARIOS[id].play):
            return [f"play {n + 1}: {each}" for each in told]
        took_s.append(time.monotonic() - began_s)
        rss_mb.append(_rss_mb(stage))
    bound_mb = stage.rss_before_mb * (1 + GROWTH_MAX)
    until_s = time.monotonic() + 2 * TRIM_S
    while rss_mb[-1] > bound_mb and time.monotonic() < until_s:
        time.sleep(0.5)  # what is free in the heap is given back now and then
        rss_mb[-1] = _rss_mb(stage)
    growth = rss_mb[-1] / stage.rss_before_mb - 1
    stage.figures.clear()
    stage.figures |= {"plays": times, "each s": f"{statistics.median(took_s):.1f}"}
    shown = {"before": stage.rss_before_mb, "first": rss_mb[0]}
    shown |= {"half": rss_mb[(times - 1) // 2], "last": rss_mb[-1]}
    stage.figures |= {f"{when} MB": f"{value:.1f}" for when, value in shown.items()}
    stage.figures["growth"] = f"{growth:+.1%}"
    return [] if growth < GROWTH_MAX else [f"O2: memory grew by {growth:.1%}"]


def _rss_mb(stage: Encore) -> float:
    return rss_bytes(stage.proxy.pid) / 1e6


def document(verdicts: list[Verdict], seed: int, times: int, took_s: float) -> str:
    """The whole of docs/repeats.md."""
    columns = next((list(x.figures) for x in verdicts if "growth" in x.figures), [])
    lines = [
        "# Faults repeated", "",
        f"What `make chaos REPEAT={times}` has shown: each of these rows of docs/faults.md was "
        f"played {times} times on", "one proxy, before one set of servers. After each play the "
        "whole oracle had to hold, and descriptors,",
        "processes, actors, greenlets and what is lent to be what they were before the first one. "
        "At the end", "the proxy's memory must be less than "
        f"{GROWTH_MAX:.0%} above what it was before the first fault; what the C",
        f"library gives back within {2 * TRIM_S:g} s does not count. Other rows are played if "
        "they are named", "(`ROWS=\"N17 P24\"`) and one proxy can play them twice. This file is "
        "what a run has written.", "",
        f"Seed {seed}, {took_s / 60:.0f} minutes: {report.summary(verdicts)}.", "",
        f"| row | fault | {' | '.join(columns)} | result |", "|---" * (len(columns) + 3) + "|",
    ]  # fmt: skip
    order = list(ROWS)
    for verdict in sorted(verdicts, key=lambda x: order.index(x.id)):
        cells = " | ".join(str(verdict.figures.get(name, "")) for name in columns)
        result = ": ".join([verdict.result, *verdict.told[:1]]).replace("\n", " ")
        lines.append(f"| {verdict.id} | {ROWS[verdict.id].fault} | {cells} | {result} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Play what is asked for; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m chaos.repeats", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="rows, such as U1; short ones if none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, default=TIMES, help="that each is played")
    parser.add_argument("--within-s", type=float, default=1800.0, help="no row begins later")
    parser.add_argument("--write", type=Path, help="file to write the table into")
    options = parser.parse_args()
    if unknown := set(options.ids) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    unwind_when_told()
    began_s = time.monotonic()
    verdicts = []
    for id in options.ids or SHORT:
        late = time.monotonic() - began_s > options.within_s
        no_time = Verdict(id, NOT_RUN, told=("no time was left",))
        verdicts.append(no_time if late else repeat(id, options.seed, options.times))
        print(report.line(verdicts[-1]), flush=True)
    print(report.summary(verdicts))
    if options.write is not None:
        took_s = time.monotonic() - began_s
        options.write.write_text(document(verdicts, options.seed, options.times, took_s))
    return 1 if any(x.result == FAILED for x in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a run of the scorecard looks like: lines for a terminal, and docs/faults.md."""

from __future__ import annotations

from collections import Counter

from chaos.coverage import simulated, tests_by_row
from chaos.runner import FAILED, NOT_RUN, PASSED, Verdict
from chaos.scorecard import ROWS, SCENARIOS

_TABLES = {
    "U": "Servers on standard input and output",
    "N": "Servers over HTTP, and the network to them",
    "C": "Clients",
    "P": "The process and the machine",
}
_INTRODUCTION = """# Faults

What `make chaos` has played: each fault of the scorecard on a real proxy, with real servers, real
sockets and a fault proxy between them, by one seed. `python -m chaos --seed 7 U1 N4` plays some
of them again. This file is what a run has written.

A row passes only if all of this holds, besides the criterion of its own:

- **Ledger.** Every call has exactly one end: an answer of its own, or an error under the contract
  that says whether it may have been executed. Servers journal what they execute: no call twice,
  none that was said not to be.
- **Leaks.** Descriptors, processes (zombies too), actors, greenlets, and what is lent are as they
  were before, within 10 seconds.
- **Time.** No call outlasts its deadline by more than a second.
- **Isolation.** A client of another server has no error, and a p99 below twice that of before, or
  below 100 ms.
- **Shape.** Status, code and `data` of each error fit together; no secret, path or traceback
  leaves.
- **Control.** `/health` and `/ready` are answered within 200 ms all the while; the process ends
  only when it is told to, with status 0, and leaves nobody behind.

Bounds on times are wider by five times what the machine itself was late in waking a thread
(`noise`). *Simulator* names the campaigns that play the row under many orders of events; *tests* is
how many further files of `make test` name it.
"""
_LIMITS = """## What no row shows

- N15 needs root, iproute2 and nftables; without them jitter, a thin line and a flapping one are
  played by the fault proxy. C12 has hundreds of clients, not thousands.
- N13: the last good address of a name is kept where its servers fail or are silent, not where they
  say that there is no such name (RFC 8767). P2: HUP reads no file. P11 refuses connections and
  resets no stream. C12: `/health` has no door of its own, so who is not connected yet is refused
  like others.
- N7, N10, N12 and N20 have no breakers: they would open, and the row is about what comes before.
- Breakers that open at N1 and U3, and retries at another endpoint, are the matter of `tests/`.
"""


def line(verdict: Verdict) -> str:
    """One verdict, for a terminal."""
    told = "; ".join(verdict.told)
    row = f"{verdict.id:4} {verdict.result:8} {verdict.took_s:5.1f} s  {ROWS[verdict.id].fault}"
    return "\n".join(filter(None, [row, f"       {_figures(verdict)}", told and f"       {told}"]))


def summary(verdicts: list[Verdict]) -> str:
    """How many there were of each."""
    counts = Counter(verdict.result for verdict in verdicts)
    return ", ".join(f"{counts[kind]} {kind}" for kind in (PASSED, FAILED, NOT_RUN))


def document(verdicts: list[Verdict], seed: int) -> str:
    """The whole of docs/faults.md."""
    parts = [_INTRODUCTION, f"Seed {seed}: {summary(verdicts)}.\n"]
    for letter, title in _TABLES.items():
        parts.append(f"## {title}\n")
        parts.append("| row | fault | injection | result | figures | simulator | tests |")
        parts.append("|---|---|---|---|---|---|---|")
        parts += [_row(x) for x in verdicts if x.id.startswith(letter)]
        parts.append("")
    parts.append(_LIMITS)
    return "\n".join(parts)


def _row(verdict: Verdict) -> str:
    row = ROWS[verdict.id]
    scenario = SCENARIOS.get(verdict.id)
    campaigns = [path.removeprefix("sim/") for path in simulated(verdict.id)]
    others = len(tests_by_row()[verdict.id]) - len(campaigns)
    result = verdict.result
    if verdict.told:
        result += ": " + "; ".join(verdict.told).replace("|", "\\|").replace("\n", " ")
    cells = [
        f"{verdict.id}{' S' if row.simulated else ''}",
        row.fault,
        scenario.injection if scenario else "",
        result,
        _figures(verdict),
        " ".join(f"`{path}`" for path in campaigns),
        str(others or ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _figures(verdict: Verdict) -> str:
    return ", ".join(f"{name} {value}" for name, value in verdict.figures.items())

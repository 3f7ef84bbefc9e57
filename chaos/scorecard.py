"""The scorecard: every fault of RELIABILITY 6.2 to 6.5, who plays it, and who plays it elsewhere.

A scenario is a function that takes the stage; `plays` enters it under the id of its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.stage import Stage

Play = Callable[[Stage], None]
# Rows that nobody plays, and why.
NOT_PLAYED = {
    "P20": "the door for operators is not built",
    "P21": "interceptors are not built",
    "P22": "`make soak`: docs/soak.md",
}


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        id: its name in the scorecard.
        fault: what goes wrong.
        simulated: whether the scorecard wants it in the simulator too.
    """

    id: str
    fault: str
    simulated: bool = False


@dataclass(frozen=True)
class Scenario:
    """How a row is played here.

    Attributes:
        injection: how the fault is brought about.
        play: plays it, and raises Unmet, or NotHere.
    """

    injection: str
    play: Play


SCENARIOS: dict[str, Scenario] = {}


def plays(id: str, injection: str) -> Callable[[Play], Play]:
    """Enter a scenario."""

    def enter(play: Play) -> Play:
        assert id not in SCENARIOS
        SCENARIOS[id] = Scenario(injection, play)
        return play

    return enter


_FAULTS = {
    "U1 S": "a child is killed in the middle of a call",
    "U2 S": "a child exits between calls, or during initialize",
    "U3 S": "a child crashes in a loop",
    "U4": "a child is stopped, and hangs",
    "U5": "a child ignores the end of its input and TERM, and has forked",
    "U6": "the proxy is killed above such a child",
    "U7 S": "a child writes what is no message, and a line without an end",
    "U8": "a child never reads its input",
    "U9": "a child floods its standard error",
    "U10 S": "a child answers what nobody asked, twice, or under another type of id",
    "U11 S": "answers out of order, a hundred calls in flight",
    "U12 S": "half a line, then death",
    "U13": "the command is missing, is not executable, or has no directory",
    "U14": "a child takes long to start",
    "U15": "no process can be started: no descriptors, or no processes left",
    "U16": "many sessions, each of which wants a child of its own",
    "N1": "connections are refused",
    "N2": "connections are never answered (SYN black hole)",
    "N3": "an established connection carries nothing any more",
    "N4 S": "reset before the answer, behind its head, and in its middle",
    "N5 S": "an event stream is reset or ends in the middle of an event",
    "N6 S": "an event stream falls silent",
    "N7 S": "the server restarts and has lost its sessions",
    "N8 S": "500s, 503 with Retry-After, 429, 401 and 403",
    "N9": "a slow server: byte by byte",
    "N10": "heads without end, huge bodies, answers that are no HTTP",
    "N11 S": "bytes behind an answer (response splitting)",
    "N12": "a kept connection is closed just when it is used again",
    "N13": "a name that cannot be resolved, or only by a server that is silent",
    "N14": "redirects, to other origins, to files, in circles",
    "N15": "a lossy, thin, flapping link",
    "N16 S": "one of two endpoints is bad, then both, then all but one of five",
    "N17 S": "an endpoint that is good and bad by turns",
    "N18": "TLS: a bad certificate, an expired one, a handshake that stalls",
    "N19 S": "an endpoint that fails fast among good ones that are slow",
    "N20": "a gzip bomb in an answer",
    "C1 S": "a client leaves in the middle of its call",
    "C2": "a client reads its event stream slowly",
    "C3": "thousands of idle streams, a broadcast, and all vanish at once",
    "C4": "slow loris: heads, bodies and chunks that trickle in",
    "C5": "a client does not read its answer",
    "C6": "heads that are too large",
    "C7": "bodies that are too large, endless, or lie about their length",
    "C8": "request smuggling",
    "C9": "poisoned JSON",
    "C10": "a thousand pipelined requests, and half ones",
    "C11 S": "the same JSON-RPC id from many clients, and twice from one",
    "C12": "a flood of connections",
    "C13": "attacks by Host, Origin, internal fields and Connection",
    "C14 S": "a race at the bound of a rate limit",
    "C15": "somebody else's session, and one that has ended",
    "C16": "a client ends its side and waits",
    "C17": "HTTP/1.0, HEAD, OPTIONS, TRACE, CONNECT, the absolute form",
    "P1": "TERM with calls and streams in flight",
    "P2": "a second TERM; HUP with a good and a bad file",
    "P3": "the proxy is killed and started again",
    "P4": "another process takes over under load",
    "P5": "no descriptors left",
    "P6": "the disk is full",
    "P7": "SQLite is locked, damaged, read-only, or gone",
    "P8": "the n-th I/O fails",
    "P9 S": "the wall clock jumps",
    "P10": "the proxy is suspended",
    "P11": "memory runs short",
    "P12": "the proxy gets a tenth of a core",
    "P13": "statsd is gone, or has no address",
    "P14": "the log's destination blocks",
    "P15 S": "any actor crashes at any message",
    "P16 S": "mailboxes overflow",
    "P17 S": "Timeout, GreenletExit, MemoryError, RecursionError in a handler",
    "P18": "the hub is blocked for seconds",
    "P19 S": "the supervisor crashes; restarts at two levels are too many",
    "P20": "malformed messages of an operator, and edits at once",
    "P21": "an interceptor raises, hangs, returns garbage",
    "P22": "a soak of an hour with faults of all kinds",
    "P23": "the port is taken, or cannot be bound",
    "P24 S": "thousands of reconnections at once after the network heals",
}
ROWS = {
    key.split()[0]: Row(key.split()[0], fault, key.endswith(" S"))
    for key, fault in _FAULTS.items()
}

"""What clients have asked and what became of it: one row for each call, closed exactly once.

Part O1 of the oracle (no call without an end, none with two, none executed twice, no answer to the
wrong client), and O3 and O5, as far as an answer alone shows them.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.wire.session_client import Answer, Session

ANSWERED, TOOL_ERROR, ERROR, REFUSED, CUT = "answered", "tool error", "error", "refused", "cut"
SECRET = "chaos-secret-5f1d0c"
# What the contract of errors has for each status; a lost session is told as either.
REASONS = {
    401: {"unauthorized"},
    403: {"forbidden"},
    404: {"session-lost"},
    413: {"too-large"},
    429: {"rate-limited"},
    500: {"internal"},
    502: {"connect-failed", "upstream-closed", "upstream-protocol", "process-exited",
          "session-lost"},
    503: {"pool-exhausted", "overloaded", "circuit-open", "draining", "upstream-unavailable"},
    504: {"upstream-timeout", "deadline"},
}  # fmt: skip
_INSIDE = re.compile(r"Traceback|Errno|\.py\b|0x[0-9a-f]{6}|/tmp/|/usr/")


@dataclass
class Call:
    """One call and its end.

    Attributes:
        n: what the upstream counts it by; unique.
        outcome: None until it has one.
        result: of an answer, as it came.
        notes: the figures of the progress that came before it.
    """

    n: str
    upstream: str
    began_s: float
    outcome: str | None = None
    status: int = 0
    reason: str = ""
    executed: str = ""
    took_s: float = 0.0
    wrong: str = ""
    result: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: list[object] = field(default_factory=list, repr=False)

    @property
    def ended(self) -> str:
        """How it has ended: the reason of an error, or the outcome."""
        return self.reason if self.outcome == ERROR else str(self.outcome)

    @property
    def pid(self) -> int:
        """Which scripted child has answered."""
        pid: int = self.result["structuredContent"]["pid"]
        return pid


@dataclass
class Ledger:
    """All calls of a scenario. Threads share it.

    Attributes:
        calls: by n.
        cut_is_fair: whether a connection may end without an answer, as when the proxy is killed.
        at_its_limits: whether the proxy itself may be what is overloaded: such an error names no
            server, and no id where the request was not even read.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    cut_is_fair: bool = False
    at_its_limits: bool = False
    _serial: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(
        self, session: Session, upstream: str, tool: str = "echo", **arguments: object
    ) -> Call:
        """Make a call, wait for its end, and enter both."""
        row = self.begin(upstream)
        try:
            answer = session.begin(tool, row.n, n=row.n, **arguments).answer()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.cut(row, error)
        else:
            self.end(row, answer)
        return row

    def begin(self, upstream: str) -> Call:
        """Enter a call that is about to be made."""
        with self._lock:
            self._serial += 1
            row = Call(f"{upstream}-{self._serial}", upstream, time.monotonic())
            self.calls[row.n] = row
        return row

    def cut(self, row: Call, error: Exception) -> None:
        """Its connection has ended before it did."""
        row.took_s = time.monotonic() - row.began_s
        self._close(row, CUT)
        row.reason = type(error).__name__
        self.wrong_if_unfair(row, error)

    def wrong_if_unfair(self, row: Call, error: Exception) -> None:
        """A connection without an answer is wrong, unless the proxy itself was killed."""
        if not self.cut_is_fair:
            row.wrong = f"no answer: {type(error).__name__}: {error}"

    def end(self, row: Call, answer: Answer) -> None:
        """It was answered, one way or another."""
        row.took_s = time.monotonic() - row.began_s
        row.status = answer.status
        text = answer.body.decode(errors="replace")
        if found := _INSIDE.search(text):
            row.wrong = f"tells of the inside: {found[0]}"
        if SECRET in text:
            row.wrong = "tells a secret"
        params = [x["params"] for x in answer.messages if isinstance(x, dict) and "params" in x]
        row.notes = [x["progress"] for x in params if "progress" in x]
        answers = [x for x in answer.messages if isinstance(x, dict) and "method" not in x]
        if len(answers) != 1:
            self._close(row, CUT)
            row.wrong = f"{len(answers)} answers, status {answer.status}"
            return
        message = answers[0]
        if "result" in message:
            self._close(row, TOOL_ERROR if message["result"].get("isError") else ANSWERED)
            row.result = message["result"]
            if message["id"] != row.n or row.n not in _said(message["result"]):
                row.wrong = f"somebody else's answer: {text[:200]}"
        else:
            self._take_error(row, answer.status, message)

    def _take_error(self, row: Call, status: int, message: dict[str, object]) -> None:
        error = message.get("error")
        data = error.get("data") if isinstance(error, dict) else None
        if isinstance(data, dict) and "reason" in data:
            row.reason, row.executed = str(data["reason"]), str(data.get("executed"))
            self._close(row, ERROR)
            at_limits = self.at_its_limits and row.reason == "overloaded"
            if message.get("id") != row.n and not (at_limits and message.get("id") is None):
                row.wrong = f"an error under the id {message.get('id')}"
            elif row.reason not in REASONS.get(status, ()) and status != 200:
                row.wrong = f"{row.reason} with the status {status}"
            elif "requestId" not in data or not (
                data.get("upstream", _whose(row)) == row.upstream
                or (at_limits and "upstream" not in data)
            ):
                row.wrong = f"not the contract of errors: {data}"
        else:
            self._close(row, REFUSED)
            row.executed = "no"
            row.reason = json.dumps(error)[:60]

    def _close(self, row: Call, outcome: str) -> None:
        with self._lock:
            if row.outcome is not None:
                row.wrong = f"two outcomes: {row.outcome} and {outcome}"
            row.outcome = outcome

    # What is asked of it.

    def of(self, upstream: str) -> list[Call]:
        """The calls to one upstream."""
        return [row for row in self.calls.values() if row.upstream == upstream]

    def tally(self, upstream: str) -> Counter[str]:
        """How many calls to an upstream have ended how."""
        rows = self.of(upstream)
        return Counter(row.ended for row in rows)

    def faults(self, journals: Sequence[Path], deadline_s: float) -> list[str]:
        """Everything that must not be, for a reader."""
        told = [f"{row.n}: {row.wrong}" for row in self.calls.values() if row.wrong]
        told += [f"{row.n}: no outcome" for row in self.calls.values() if row.outcome is None]
        told += [
            f"{row.n}: took {row.took_s:.1f} s, the deadline is {deadline_s:g} s"
            for row in self.calls.values()
            if row.took_s > deadline_s + 1.0
        ]
        written = [journal.read_text() for journal in journals if journal.exists()]
        if written:
            told += self._executions(Counter("".join(written).split()))
        return told

    def _executions(self, executed: Counter[str]) -> Iterable[str]:
        for n, count in executed.items():
            if count > 1:
                yield f"{n}: executed {count} times"
        for row in self.of("victim"):
            if row.outcome in (ANSWERED, TOOL_ERROR) and not executed[row.n]:
                yield f"{row.n}: answered and never executed"
            if row.executed == "no" and executed[row.n]:
                yield f"{row.n}: executed, though its error says no"


def _whose(row: Call) -> str:
    """The server whose trouble an error is that names none: nobody's, if the limit is ours."""
    return row.upstream if row.reason in ("rate-limited", "too-large") else ""


def _said(result: dict[str, object]) -> str:
    return json.dumps(result)


def p99_ms(rows: list[Call]) -> float:
    """The 99th percentile of how long calls took; of few, the longest."""
    times = sorted(row.took_s for row in rows)
    return times[int(len(times) * 0.99)] * 1e3 if times else 0.0

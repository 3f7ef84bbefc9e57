"""The mixed traffic of a soak: what each client does, and the books of all that came of it.

The books of one scenario keep every call; these keep a word about each, for hours.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos.ledger import ANSWERED, CUT, ERROR, TOOL_ERROR, Call, Ledger
from tests.wire.session_client import Session, SessionClient

ONCE, NEVER, PERHAPS = "once", "never", "perhaps"
NOTES = 12
RETURNS_MAX = 20
PATIENCE_S = 20.0


class Books:
    """What was asked, and what must have been executed.

    Attributes:
        endings: how many calls to each server have ended how.
        did: how often clients have done what.
        wrong: what must not be, the first hundred.
    """

    def __init__(self, deadline_s: float) -> None:
        self.endings: Counter[tuple[str, str]] = Counter()
        self.did: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._deadline_s = deadline_s
        self._executions: dict[str, str] = {}
        self._ledger = Ledger()
        self._lock = threading.Lock()

    def call(self, session: Session, upstream: str, tool: str, **arguments: object) -> Call:
        """Make a call and enter its end."""
        row = self._ledger.call(session, upstream, tool, **arguments)
        self.close(row)
        return row

    def begin(self, upstream: str) -> Call:
        """Enter a call that is about to be made; `close` is to follow."""
        return self._ledger.begin(upstream)

    def close(self, row: Call) -> None:
        """Keep of a call what matters."""
        with self._lock:
            del self._ledger.calls[row.n]
            self.endings[row.upstream, row.ended] += 1
            if row.outcome in (ANSWERED, TOOL_ERROR):
                self._executions[row.n] = ONCE
            else:
                self._executions[row.n] = NEVER if row.executed == "no" else PERHAPS
            if row.took_s > self._deadline_s + 1.0:
                row.wrong = row.wrong or f"took {row.took_s:.1f} s"
            if row.wrong:
                self.note(f"{row.n}: {row.wrong} ({row.ended})")

    def note(self, wrong: str) -> None:
        """Enter what must not be."""
        if len(self.wrong) < 100:
            self.wrong.append(wrong)

    @property
    def total(self) -> int:
        """How many calls there have been."""
        return self.endings.total()

    @property
    def kinds(self) -> list[str]:
        """All the ways in which calls have ended, the most frequent first."""
        counts: Counter[str] = Counter()
        for (_, kind), count in self.endings.items():
            counts[kind] += count
        return [kind for kind, _ in counts.most_common()]

    def check(self, journal: Path) -> None:
        """Compare with what a server has executed."""
        executed = Counter(journal.read_text().split()) if journal.exists() else Counter()
        for n, count in executed.items():
            expected = self._executions.pop(n, None)
            if expected is None or count > 1 or expected == NEVER:
                self.note(f"{n}: executed {count} times, expected {expected}")

    def check_missing(self) -> None:
        """Behind all journals: who was answered must have been executed by somebody."""
        for n, expected in self._executions.items():
            if expected == ONCE:
                self.note(f"{n}: answered, and executed by nobody")


class Client(threading.Thread):
    """One client of one server: sessions, calls, lists, streams, by a seed of its own.

    Args:
        books: of all clients.
        address: where the proxy listens.
        upstream: the server's name.
        key: whose it is.
        seed: of what it does.
        streams: whether its server can be asked for streams that go on.
    """

    def __init__(
        self,
        books: Books,
        address: tuple[str, int],
        upstream: str,
        key: str,
        seed: str,
        streams: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._books = books
        self._address = address
        self._upstream = upstream
        self._fields = {"Authorization": f"Bearer {key}"}
        self._chance = random.Random(seed)
        self._client = SessionClient(address, self._fields)
        self._over = threading.Event()
        self._acts: list[tuple[Callable[[Session], bool], int]] = [
            (self._call, 6), (self._list, 3), (self._large, 1), (self._leave, 1),
        ]  # fmt: skip
        if streams:
            self._acts.append((self._stream, 2))

    @property
    def path(self) -> str:
        """Where its server is."""
        return f"/mcp/{self._upstream}"

    def stop(self) -> None:
        """Begin nothing further."""
        self._over.set()

    def run(self) -> None:
        """Open a session, use it, end it, and so on."""
        while not self._over.is_set():
            try:
                session = self._client.session(path=self.path)
            except (AssertionError, OSError, http.client.HTTPException):
                self._books.did["session refused"] += 1
                self._client.leave()
                self._over.wait(0.1)
                continue
            self._books.did["session"] += 1
            self._use(session)
            try:
                self._client.end_sessions()
            except (OSError, http.client.HTTPException) as error:
                self._books.note(f"DELETE at {self._upstream}: {error!r}")
                self._client.leave()

    def _use(self, session: Session) -> None:
        acts, weights = zip(*self._acts)
        for _ in range(self._chance.randrange(5, 40)):
            act = self._chance.choices(acts, weights)[0]
            if self._over.is_set() or not act(session):
                return
            self._books.did[act.__name__.strip("_")] += 1
            self._over.wait(self._chance.expovariate(1 / 0.05))

    # What it does with a session; False when that is over.

    def _call(self, session: Session) -> bool:
        arguments = {} if self._upstream != "http" else {"do": self._steps()}
        row = self._books.call(session, self._upstream, "echo", **arguments)
        return row.status != 404 and row.outcome != CUT

    def _steps(self) -> list[str]:
        return self._chance.choice(
            [["json"], ["chunked 9"], ["pause 0.1", "json"], ["sse", "note", "answer", "end"]]
        )

    def _list(self, session: Session) -> bool:
        method = self._chance.choice(["tools/list", "ping"])
        try:
            return session.send(method, id="list").answer().status != 404
        except (OSError, http.client.HTTPException) as error:
            self._books.note(f"{method} at {self._upstream}: {error!r}")
            return False

    def _large(self, session: Session) -> bool:
        text = "x" * self._chance.randrange(200_000)
        row = self._books.call(session, self._upstream, "echo", text=text)
        return row.status != 404 and row.outcome != CUT

    def _leave(self, session: Session) -> bool:
        """Go away in the middle of a call."""
        row = self._books.begin(self._upstream)
        other = Session(SessionClient(self._address, self._fields), session.id, session.path)
        try:
            pending = other.begin("echo", row.n, n=row.n)
            self._over.wait(self._chance.uniform(0.0, 0.01))
            pending.leave()
        except OSError as error:
            self._books.note(f"{row.n}: {error!r}")
        row.outcome, row.executed = "left", "unknown"
        self._books.close(row)
        return True

    def _stream(self, session: Session) -> bool:
        """Read the answer of a call over as many connections as it takes."""
        row = self._books.begin(self._upstream)
        steps = ["sse", *["note", "pause 0.03"] * NOTES, "answer", "end"]
        params = {"name": "t", "arguments": {"n": row.n, "do": steps}}
        body = {"jsonrpc": "2.0", "id": row.n, "method": "tools/call", "params": params}
        notes: list[int] = []
        try:
            for message in _Resuming(self._address, session, self._fields, body, self._chance):
                if "method" in message:
                    notes.append(message["params"]["progress"])
                elif "result" in message:
                    row.outcome = ANSWERED
                else:
                    row.outcome = ERROR
                    data = message["error"].get("data", {})
                    row.reason, row.executed = str(data.get("reason")), str(data.get("executed"))
        except (OSError, http.client.HTTPException) as error:
            row.wrong = f"a stream without an end: {error!r}"
        if row.outcome is None:
            row.outcome, row.executed = "refused", "unknown"
        if row.outcome == ANSWERED and notes != list(range(1, NOTES + 1)):
            row.wrong = f"progress came as {notes}"
        self._books.close(row)
        return row.outcome == ANSWERED


class _Resuming:
    """The messages of a call's stream; the connection is left now and then, and come back from."""

    def __init__(
        self,
        address: tuple[str, int],
        session: Session,
        fields: dict[str, str],
        body: object,
        chance: random.Random,
    ) -> None:
        self._address = address
        self._path = session.path
        self._fields = {
            **fields, "Mcp-Session-Id": session.id, "MCP-Protocol-Version": "2025-11-25",
            "Accept": "application/json, text/event-stream", "Content-Type": "application/json",
        }  # fmt: skip
        self._body = json.dumps(body).encode()
        self._chance = chance
        self._last_id = ""

    def __iter__(self) -> Iterator[dict[str, object]]:
        for _ in range(RETURNS_MAX):
            connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE_S)
            try:
                for message in self._messages(connection):
                    yield message
                    if "method" not in message:
                        return
            finally:
                connection.close()
            if not self._last_id:
                return
            time.sleep(0.05)
        raise OSError("the answer has not come")

    def _messages(self, connection: http.client.HTTPConnection) -> Iterator[dict[str, object]]:
        if self._last_id:
            fields = {**self._fields, "Last-Event-ID": self._last_id}
            connection.request("GET", self._path, None, fields)
        else:
            connection.request("POST", self._path, self._body, self._fields)
        response = connection.getresponse()
        if not response.getheader("Content-Type", "").startswith("text/event-stream"):
            self._last_id = ""
            message = json.loads(response.read() or b"{}")
            if "error" in message:
                yield message
            return
        data = id = b""
        while line := response.readline():
            line = line.rstrip(b"\r\n")
            if line.startswith(b"id:"):
                id = line[3:].strip()
            elif line.startswith(b"data:"):
                data = line[5:].strip()
            elif not line and id:
                self._last_id, id = id.decode(), b""
                if data:
                    yield json.loads(data)
                    data = b""
                if self._chance.random() < 0.1:
                    return  # it leaves, and comes back

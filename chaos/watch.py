"""Those who watch while a fault is on: an unaffected client, the probes, and the machine's noise.

Parts O4 (isolation) and O6 (control) of the oracle. Times are judged against what the machine
itself did meanwhile: `Noise` measures how late a thread that wants little is woken, and bounds are
wider by a multiple of that. So a busy machine fails nobody, and a quiet one excuses nobody.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

from chaos.ledger import ANSWERED, Call, Ledger, p99_ms
from tests.wire.session_client import SessionClient

BYSTANDER = "bystander"
CALL_INTERVAL_S = 0.02
PROBE_INTERVAL_S = 0.05
NOISE_INTERVAL_S = 0.01
PROBE_MS_MAX = 200.0
P99_FLOOR_MS = 100.0
# A request takes several turns of several processes, each of which may be woken late.
NOISE_FACTOR = 5.0


class Repeated(threading.Thread):
    """Does one thing again and again until it is told to stop; a context manager."""

    def __init__(self, interval_s: float, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._interval_s = interval_s
        self._act = act
        self._over = threading.Event()

    def run(self) -> None:
        """Do it."""
        while not self._over.wait(self._interval_s):
            self._act()

    def stop(self) -> None:
        """Do it no more. Idempotent."""
        self._over.set()
        self.join()

    def __enter__(self) -> Repeated:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Noise:
    """How late threads of this machine are woken, at the worst.

    Args:
        leniency: all bounds on times are multiplied by this besides.
    """

    def __init__(self, leniency: float) -> None:
        self.worst_ms = 0.0
        self._leniency = leniency
        self._due_s = 0.0

    def look(self) -> None:
        """Take one measure."""
        began_s = time.monotonic()
        threading.Event().wait(NOISE_INTERVAL_S)
        late_s = time.monotonic() - began_s - NOISE_INTERVAL_S
        self.worst_ms = max(self.worst_ms, late_s * 1e3)

    def widen(self, bound_ms: float) -> float:
        """The bound on such a machine."""
        return self._leniency * bound_ms + NOISE_FACTOR * self.worst_ms


class Probes:
    """Asks /health and /ready; each must be answered, whatever it says."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=10.0)
        self.worst_ms = 0.0
        self.count = 0
        self.failed: list[str] = []

    def look(self) -> None:
        """Ask for both."""
        for page in ("/health", "/ready"):
            began_s = time.monotonic()
            try:
                self._connection.request("GET", page)
                response = self._connection.getresponse()
                response.read()
                if response.status not in (200, 503 if page == "/ready" else 200):
                    self.failed.append(f"{page}: {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self.failed.append(f"{page}: {type(error).__name__}")
            self.count += 1
            self.worst_ms = max(self.worst_ms, (time.monotonic() - began_s) * 1e3)

    def close(self) -> None:
        """Leave."""
        self._connection.close()


class Watch:
    """All of them, from `start` to `stop`.

    Args:
        ledger: where the bystander's calls are entered.
        address: where the proxy listens.
        baseline_ms: the bystander's p99 before the fault.
        leniency: see `Noise`.
    """

    def __init__(
        self, ledger: Ledger, address: tuple[str, int], baseline_ms: float, leniency: float
    ) -> None:
        self._baseline_ms = baseline_ms
        self._client = SessionClient(address, {})
        self._session = self._client.session(path="/mcp/bystander")
        self._ledger = ledger
        self.calls: list[Call] = []
        self.noise = Noise(leniency)
        self.probes = Probes(address)
        self._threads = [
            Repeated(CALL_INTERVAL_S, self._call),
            Repeated(PROBE_INTERVAL_S, self.probes.look),
            Repeated(0.0, self.noise.look),
        ]
        for thread in self._threads:
            thread.start()
        while not self.probes.count:  # whoever is to stay connected must be so before a fault
            threading.Event().wait(PROBE_INTERVAL_S)

    def _call(self) -> None:
        message = f"{BYSTANDER}-{len(self.calls)}"
        row = self._ledger.begin(BYSTANDER)
        self.calls.append(row)
        try:
            answer = self._session.begin("echo", row.n, message=f"{row.n} {message}").answer()
        except (OSError, http.client.HTTPException) as error:
            self._ledger.cut(row, error)
        else:
            self._ledger.end(row, answer)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        for thread in self._threads:
            thread.stop()
        self.probes.close()
        if self._session is not None:
            self._client.end_sessions()

    def faults(self, isolated: bool, controlled: bool) -> list[str]:
        """What O4 and O6 say; a scenario in which all are affected is not asked for O4."""
        told = []
        p99 = p99_ms(self.calls)
        bound = self.noise.widen(max(2 * self._baseline_ms, P99_FLOOR_MS))
        if isolated:
            bad = [row for row in self.calls if row.outcome != ANSWERED]
            if bad:
                told.append(f"O4: {len(bad)} bystanders' calls failed: {bad[0]}")
            if p99 > bound:
                told.append(f"O4: the bystander's p99 was {p99:.0f} ms, of {bound:.0f}")
        if controlled:
            if self.probes.failed:
                told.append(f"O6: {len(self.probes.failed)} probes: {self.probes.failed[0]}")
            bound = self.noise.widen(PROBE_MS_MAX)
            if self.probes.worst_ms > bound:
                told.append(f"O6: a probe took {self.probes.worst_ms:.0f} ms, of {bound:.0f}")
        return told

"""Clients that call again and again while a scenario plays."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chaos.ledger import Call
from tests.wire.session_client import Session, SessionClient

if TYPE_CHECKING:
    from chaos.stage import Stage

VICTIM = "/mcp/victim"
REOPEN_S = 0.05


class Load:
    """Clients that call again and again, each in a session of its own, until `stop`."""

    def __init__(
        self, stage: Stage, clients: int, pause_s: float, arguments: Mapping[str, object]
    ) -> None:
        self._stage = stage
        self._pause_s = pause_s
        self._arguments = dict(arguments)
        self._over = threading.Event()
        self.rows: list[Call] = []
        self.reopened = 0
        self._threads = [
            threading.Thread(target=self._run, args=(stage.client(),), daemon=True)
            for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let running calls end, and begin no other. Idempotent."""
        self._over.set()
        for thread in self._threads:
            thread.join(60.0)

    def _run(self, client: SessionClient) -> None:
        session: Session | None = None
        while not self._over.is_set():
            if session is None:
                session = self._open(client)
                continue
            row = self._stage.call(session, **self._arguments)  # type: ignore[arg-type]
            self.rows.append(row)
            if row.status == 404 or row.outcome == "cut":
                client.leave()
                self.reopened += 1
                session = None
            self._over.wait(self._pause_s)

    def _open(self, client: SessionClient) -> Session | None:
        try:
            return client.session(path=VICTIM)
        except (AssertionError, OSError, http.client.HTTPException):
            client.leave()
            self._over.wait(REOPEN_S)
            return None

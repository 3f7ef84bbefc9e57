"""What becomes of sessions while a child misbehaves: who must not notice, and who must recover."""

from __future__ import annotations

import os
from pathlib import Path

from .proxy_process import ProxyProcess
from .session_client import Answer, Session, check_failure
from .waiting import eventually

# What calls are told while a process is on its way, or its tool is left alone.
_STATUSES = {"process-exited": 502, "upstream-unavailable": 503, "circuit-open": 503}


class Bystander:
    """A session in the middle of a call, which its child answers when it is told to."""

    def __init__(self, proxy: ProxyProcess, gate: Path) -> None:
        self._session = proxy.session()
        os.mkfifo(gate)
        self._pending = self._session.begin("after", "bystander", gate=str(gate))
        self._gate = gate.open("wb")  # returns when the child has opened it too

    def answer(self) -> Answer:
        """End the call."""
        self._gate.close()
        return self._pending.answer()

    def check_undisturbed(self) -> None:
        """The call ends as it would have, and the session goes on."""
        assert self.answer().value == "after"
        assert self._session.call("echo", 2, n=2).value == {"n": 2}

    def check_fate(self, mode: str) -> None:
        """The child of another session has ended; in SHARED mode it was this one's too."""
        if mode == "shared":
            self.check_lost()
        else:
            self.check_undisturbed()

    def check_lost(self) -> None:
        """The child has ended, or is about to, and did not come to answer."""
        answer = self._pending.answer()
        self._gate.close()
        check_failure(answer, 502, "process-exited", "unknown", "bystander")


def working(proxy: ProxyProcess, session: Session) -> Session:
    """Return the session as soon as it can be used again; a new one if it ended with its child.

    Meanwhile its calls fail as they should.
    """

    def look() -> Session | None:
        answer = session.call("echo", n=1)
        if answer.status == 404:
            answer = proxy.begin_session().answer()
            if answer.status == 200:
                return proxy.adopt(answer)
        elif answer.status == 200:
            return session
        data = answer.message["error"]["data"]
        status = _STATUSES[data["reason"]]
        check_failure(answer, status, data["reason"], data["executed"])
        return None

    found = eventually(look)
    assert found.call("echo", n=2).value == {"n": 2}
    return found

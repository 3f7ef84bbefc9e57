"""Which sessions are being opened anew at an upstream that has lost them, and who waits for that.

Many requests find out at once that a session is lost; it is opened anew once, and all of them hear
of the outcome. Who finds out later, by an answer to a request of before, gets what there is now.
`policy/http_upstream.py` uses it.
"""

from __future__ import annotations

from proxy_actors.messages import http_upstream as m
from proxy_actors.messages.http_upstream import HttpUpstreamEffect
from proxy_actors.messages.sessions import Session


class Renewals:
    """The renewals of one upstream."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[int]] = {}
        self._renewed: dict[str, Session] = {}

    def ask(self, session: Session, ask_id: int) -> list[HttpUpstreamEffect]:
        """Have a lost session opened anew for who asked."""
        waiting = self._waiting.get(session.key)
        if waiting is not None:
            waiting.append(ask_id)
            return []
        present = self._renewed.get(session.key)
        if present is not None and present.place != session.place:
            return [m.AnswerRenewal(ask_id, present)]
        self._waiting[session.key] = [ask_id]
        return [m.Renew(session)]

    def ended(self, outcome: m.RenewalEnded) -> list[HttpUpstreamEffect]:
        """Answer all who wait."""
        if outcome.session is not None:
            self._renewed[outcome.key] = outcome.session
        return [
            m.AnswerRenewal(ask_id, outcome.session, outcome.reason, outcome.text)
            for ask_id in self._waiting.pop(outcome.key, ())
        ]

    def forget(self, key: str) -> None:
        """The session has ended."""
        self._renewed.pop(key, None)

"""Whether a server on a channel that did not answer a call in time is alive at all.

Silence proves nothing by itself: many servers do one thing at a time, and say nothing meanwhile. So
nobody is asked before a call has had all of its time; one who has not said a word for a while then
is asked by `ping`, which every receiver must answer promptly (MCP-S-24). Who says nothing at all
until the ping's time is up has hung, and is given up, which has a process killed and started anew
(FLT-U4). A word of any kind is a sign of life. An active check asks one that has nothing to do, and
so no reason to be silent; the same time is up for it in the end.

Owns when the server was heard last and the ping that is out. `actors/channel.py` is the shell.
"""

from __future__ import annotations

import math
from typing import Final

from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import PING

# How long it must have been silent to be asked, and how long it has to answer.
QUIET_S: Final = 30.0
PING_S: Final = 30.0


class Liveness:
    """Decides for one channel."""

    __slots__ = ("_asked", "_heard_s", "_ping_id", "_serial")

    def __init__(self) -> None:
        self._heard_s = math.inf
        self._asked = False
        self._ping_id: bytes | None = None
        self._serial = 0

    def heard(self, frame: Message, now_s: float) -> bool:
        """Note that the server has said something; whether that was the answer to the last ping."""
        self._heard_s = now_s
        self._asked = False
        return self._ping_id is not None and frame.id == self._ping_id

    def call_expired(self, now_s: float) -> list[LedgerEffect]:
        """A call was not answered in time: ask, unless the server was heard or is being asked.

        One that has never said anything is shaking hands, which has a time of its own.
        """
        return [] if now_s - self._heard_s < QUIET_S else self.ask()

    def ask(self) -> list[LedgerEffect]:
        """Ask whether it is alive, unless it is being asked."""
        if self._asked:
            return []
        self._asked = True
        self._serial += 1
        self._ping_id = b'"proxy-actors-ping-%d"' % self._serial
        return [
            e.WriteFrame(jsonrpc_rewrite.request(self._ping_id, PING)),
            e.WakeLiveness(PING_S, self._serial),
        ]

    def due(self, generation: int) -> list[LedgerEffect]:
        """The time of a ping is up."""
        if not self._asked or generation != self._serial:
            return []
        return [e.GiveUp("it answers nothing, a ping neither")]

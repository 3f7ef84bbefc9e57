"""What the proxy takes in while it is busier than it can be, and how it begins again.

Owns the watermarks of hub lag, memory and descriptors. When the lag is over its mark no connection
is accepted, and requests on connections that stand between two wait for their turn unparsed: to
parse them only to refuse them would cost what there is too little of. From then on the loop is
looked at in every round that it makes, and a few are let in at each look. So what has been begun
comes before what is new, and is not made to wait behind it. A few are let in however late the loop
is, since the lag may have other causes, which must not starve them; when nobody waits any more all
is open again. When memory or descriptors are over theirs, new connections are refused.

`transports/http_server.py` is the shell; `gateway/read_gate.py` is where requests wait.
"""

from __future__ import annotations

import math
from typing import assert_never

import msgspec

from proxy_actors.messages import server as m
from proxy_actors.messages.server import IntakeEffect, IntakeMessage
from proxy_actors.policy.watermarks import Watermark

# At one look.
LET_IN = 16
LET_IN_MIN = 4
# Of a high mark, what the low one is.
LOW_LAG = 0.5
LOW_SHARE = 0.95


class IntakeLimits(msgspec.Struct, frozen=True):
    """The high marks; infinity switches one off.

    Attributes:
        lag_s_max: how late the loop may come to what is due.
        memory_share_max: of the memory that the process may have.
        fds_share_max: of the descriptors that it may have.
    """

    lag_s_max: float = math.inf
    memory_share_max: float = math.inf
    fds_share_max: float = math.inf


class IntakePolicy:
    """Decides for one listener. At first everything is taken in."""

    def __init__(self, limits: IntakeLimits) -> None:
        self._lag = Watermark(limits.lag_s_max, limits.lag_s_max * LOW_LAG)
        shares = limits.memory_share_max, limits.fds_share_max
        self._memory, self._fds = (Watermark(share, share * LOW_SHARE) for share in shares)
        self._gated = False
        self.paused = 0

    @property
    def lag_s_noted(self) -> float:
        """A lag below this changes nothing while `gated` is false."""
        return self._lag.high

    @property
    def gated(self) -> bool:
        """Whether requests wait for their turn."""
        return self._gated

    @property
    def refuses(self) -> bool:
        """Whether new connections are refused."""
        return self._memory.over or self._fds.over

    def handle(self, message: IntakeMessage) -> list[IntakeEffect]:
        """Apply one message and return what is to be done, in order."""
        match message:
            case m.LagSeen(lag_s, waiting):
                return self._lagged(lag_s, waiting)
            case m.ProcessWeighed(memory_share, fds_share):
                before = self.refuses
                self._memory.see(memory_share)
                self._fds.see(fds_share)
                return [] if self.refuses == before else [m.RefuseConnections(self.refuses)]
            case _:
                assert_never(message)

    def _lagged(self, lag_s: float, waiting: int) -> list[IntakeEffect]:
        effects: list[IntakeEffect] = []
        before = self._lag.over
        over = self._lag.see(lag_s)
        if over and not before:
            self.paused += 1
            effects.append(m.PauseAccepting())
            if not self._gated:
                self._gated = True
                effects.append(m.CloseGate())
        if not self._gated:
            return effects
        if before and not over:
            effects.append(m.ResumeAccepting())
        if waiting:
            effects.append(m.LetIn(LET_IN_MIN if over else LET_IN))
        elif not over:
            self._gated = False
            effects.append(m.OpenGate())
        return effects

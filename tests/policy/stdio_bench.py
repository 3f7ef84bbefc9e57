"""A child's ledger with a clock, for tests that tell it one thing after another."""

from __future__ import annotations

from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import NOBODY, Owner
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.policy.stdio_exclusive import (
    SWEEP_INTERVAL_S,
    ExclusiveMessage,
    ExclusivePolicy,
)
from proxy_actors.policy.stdio_shared import SharedMessage, SharedPolicy
from proxy_actors.protocol.jsonrpc import Message
from tests.policy.stdio_frames import request

CALL_S = 100.0


class Bench:
    """The ledger, its clock and the timer that it has armed."""

    def __init__(self, policy: ExclusivePolicy | SharedPolicy) -> None:
        self.policy = policy
        self.now_s = 1000.0
        self.calls = 0
        self.generation = 0
        self.note(policy.begin(self.now_s))

    def note(self, effects: list[LedgerEffect]) -> list[LedgerEffect]:
        """Note which timer is armed; it is told apart."""
        for effect in effects:
            if isinstance(effect, e.WakeSweep):
                assert effect.after_s == SWEEP_INTERVAL_S
                self.generation = effect.generation
        return [effect for effect in effects if not isinstance(effect, e.WakeSweep)]

    def tell(self, message: ExclusiveMessage | SharedMessage) -> list[LedgerEffect]:
        return self.note(self.policy.handle(message, self.now_s))  # type: ignore[arg-type]

    def submit(
        self, call: Message | None = None, key: str = "a", owner: Owner = NOBODY
    ) -> list[LedgerEffect]:
        """Submit the next call; by default one of its own number."""
        self.calls += 1
        call = call or request(b"%d" % self.calls)
        deadline_s = self.now_s + CALL_S
        return self.tell(m.SubmitCall(self.calls, key, call, deadline_s, owner=owner))

    def receive(self, frame: Message) -> list[LedgerEffect]:
        return self.tell(m.FrameReceived(frame))

    def send(self, message: Message, key: str = "a") -> list[LedgerEffect]:
        return self.tell(m.SendMessage(key, message))

    def sweep(self, after_s: float = 0.0) -> list[LedgerEffect]:
        """Let time pass, and the timer ring."""
        self.now_s += after_s
        return self.tell(m.CallSweepDue(self.generation))

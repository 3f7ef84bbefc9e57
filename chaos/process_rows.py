"""Faults of the process and the machine: RELIABILITY 6.5, P1 to P24."""

from __future__ import annotations

NOT_RUN = {f"P{n}": "no scenario yet" for n in range(1, 25)}

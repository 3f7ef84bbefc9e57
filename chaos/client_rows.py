"""Faults of clients: RELIABILITY 6.4, C1 to C17."""

from __future__ import annotations

NOT_RUN = {f"C{n}": "no scenario yet" for n in range(1, 18)}

"""Faults of servers over HTTP and of the network to them: RELIABILITY 6.3, N1 to N20."""

from __future__ import annotations

NOT_RUN = {f"N{n}": "no scenario yet" for n in range(1, 21)}

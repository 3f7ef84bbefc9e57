"""Where bytes are received: one buffer for all streams, out of which they are copied at their size.

To receive into new bytes takes as many as may come, of which most are given back. What is kept then
lies wherever there was room for the most, each piece in a hole of its own, and the heap grows by
holes. Only the loop's thread receives, and copies before anyone else can. No finalizer, which the
collector may run in between, may receive.
"""

from __future__ import annotations

BUFFER_BYTES = 65_536
BUFFER = bytearray(BUFFER_BYTES)
VIEW = memoryview(BUFFER)

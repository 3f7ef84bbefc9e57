"""How the C library keeps memory that was freed.

glibc takes large blocks from the system and gives them back when they are freed; but each such
block that is freed raises what counts as large, up to 32 MB (mallopt(3)). From then on large
answers come from the heap, between small blocks that stay, and the process grows for hours. Owns
nothing.
"""

from __future__ import annotations

import ctypes

# The parameters of mallopt(3), from malloc.h, and their values at the start.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 128 * 1024


def give_large_blocks_back() -> None:
    """Have what counts as large stay as it is. No effect where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES)

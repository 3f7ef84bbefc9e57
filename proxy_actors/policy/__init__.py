"""The functional core: every decision is a plain class, `handle(message, now_s) -> effects`.

Nothing here performs I/O, waits, tells the time or draws a random number by itself.
"""

"""A stdio server with a grandchild that has left its group; both ignore the usual signals.

python stubborn.py FILE: writes both process ids into the file, then does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    """Stay."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if child := os.fork():
        Path(sys.argv[1]).write_text(f"{os.getpid()} {child}")
    else:
        os.setsid()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()

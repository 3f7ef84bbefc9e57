"""`python -m chaos [--seed N] [--repeat N] [--write FILE] [ID ...]`: play the scorecard."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chaos import report
from chaos.ending import unwind_when_told
from chaos.runner import FAILED, play_all
from chaos.scorecard import ROWS


def main() -> int:
    """Play what is asked for; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="rows, such as U1; all if none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="with as many seeds")
    parser.add_argument("--write", type=Path, help="file to write the table into")
    options = parser.parse_args()
    if unknown := set(options.ids) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    unwind_when_told()
    for seed in range(options.seed, options.seed + options.repeat):
        verdicts = play_all(options.ids, seed, lambda x: print(report.line(x), flush=True))
        print(report.summary(verdicts))
        if options.write is not None:
            options.write.write_text(report.document(verdicts, seed))
        if failed := [x.id for x in verdicts if x.result == FAILED]:
            print(f"again: python -m chaos --seed {seed} {' '.join(failed)}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A run of faults that is told to end leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from proxy_actors.transports.guardian import ProcessTable
from tests.wire.guardian_peer import wait_gone, watched
from tests.wire.waiting import PATIENCE_S, eventually


@pytest.mark.parametrize(
    ("words", "told", "others"),
    [
        (("chaos.soak",), signal.SIGTERM, 4),  # two servers, the proxy, its guardian
        (("chaos", "U4"), signal.SIGINT, 3),  # the proxy, its guardian, a child
    ],
    ids=str,
)
def test_run_that_is_told_to_end_ends_all_that_it_has_started(
    words: tuple[str, ...], told: signal.Signals, others: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as process:
        try:
            pids = eventually(lambda: _below(process.pid, others))
            with watched(pids) as pidfds:
                process.send_signal(told)
                said, _ = process.communicate(timeout=PATIENCE_S)
                assert process.returncode == 128 + told, said.decode()
                wait_gone(*pidfds)
        finally:
            process.kill()


def _below(pid: int, least: int) -> list[int]:
    """Everyone below a process, once they are so many."""
    pids = ProcessTable().descendants(pid)
    return pids if len(pids) >= least else []

"""What the process says of itself when it has nothing left to say it with."""

from __future__ import annotations

import resource

from proxy_actors.transports.process_figures import process_figures


def test_process_without_a_descriptor_is_described() -> None:
    """FLT-P5: the watermarks are looked at just then; all descriptors are in use."""
    figures = process_figures(0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        exhausted = process_figures(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert exhausted.fds == exhausted.fds_max == 3
    assert figures.rss_bytes // 2 < exhausted.rss_bytes
    assert exhausted.threads >= 1

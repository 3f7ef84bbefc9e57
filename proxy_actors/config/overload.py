"""[overload]: when the proxy takes in less than it is offered."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from proxy_actors.config.section import Section, doc


class Overload(Section, frozen=True, kw_only=True):
    """[overload]: when the proxy takes in less than it is offered."""

    lag_s_max: Annotated[
        float, Meta(ge=0, le=10),
        doc(
            "When its one thread comes so late to what is due, no connection is accepted, and the "
            "next requests of open connections wait for their turn. 0: never."
        ),
    ] = 0.05
    memory_percent: Annotated[
        int, Meta(ge=0, le=100),
        doc(
            "New connections are refused with 503 while the process has so much of the memory of "
            "its control group, or of the machine. 0: never."
        ),
    ] = 85
    fds_percent: Annotated[
        int, Meta(ge=0, le=100),
        doc("And while it has so much of the file descriptors that it may have. 0: never."),
    ] = 90

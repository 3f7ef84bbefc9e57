"""Every test of the gateway watches that no turn of an actor switches greenlets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.turns import watched_turns


@pytest.fixture(autouse=True)
def turns_do_not_switch() -> Iterator[None]:
    with watched_turns():
        yield

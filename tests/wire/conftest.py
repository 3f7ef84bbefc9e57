"""Proxies in front of the scripted child, one for each way of sharing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from .proxy_process import SCRIPTED, ProxyProcess, running

CHILDREN_AT_REST = {"session": 1, "shared": 1, "pool": 4}
# Every child that has become ready counts as one that ran well for a while: the deaths that a
# module plays within seconds would be a crash loop otherwise, and each wait longer than the last.
# To the circuit breaker of the tool that they die of they are one.
FAR_APART = {
    "proxy_actors.policy.stdio_shared_children.STEADY_S": 0.0,
    "proxy_actors.policy.exits.ONE_EXIT_S": 1000.0,
}

Served = tuple[ProxyProcess, tuple[int, int]]


def serve(mode: str, settings: Mapping[str, object] = {}) -> Iterator[Served]:
    """Yield a proxy, and what it has at rest."""
    settings = {**FAR_APART, **settings}
    with running("--stdio", mode, "--", *SCRIPTED, settings=settings) as proxy:
        yield proxy, proxy.take_stock(CHILDREN_AT_REST[mode])


@pytest.fixture(scope="session", params=list(CHILDREN_AT_REST))
def mode(request: pytest.FixtureRequest) -> str:
    """How sessions share children."""
    mode: str = request.param
    return mode


@pytest.fixture(scope="session")
def served(mode: str) -> Iterator[Served]:
    """A proxy that all tests share."""
    yield from serve(mode)


@pytest.fixture
def proxy(served: Served) -> Iterator[ProxyProcess]:
    """The proxy; after each test it has what it had before, no more and no less."""
    proxy, stock = served
    yield proxy
    proxy.check_rest(stock)

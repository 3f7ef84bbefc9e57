"""Fixtures of the peers' tests: real servers by each route, and what real clients saw of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from peers.clients import Sightings
from peers.endpoint import Endpoint
from peers.upstreams import missing_node_parts

ROUTES = ["direct", "proxied-http", "proxied-stdio-session"]


@pytest.fixture(scope="session")
def node_parts() -> None:
    """Fail, loudly and never by a skip, where the Node peers are not installed."""
    missing = missing_node_parts()
    if missing:
        pytest.fail(missing, pytrace=False)


@pytest.fixture(scope="session", params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """How clients reach the servers."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def endpoint(
    route: str, node_parts: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """Call it with an upstream's name for the URL of that upstream by this route."""
    opened = Endpoint(route, tmp_path_factory.mktemp(route))
    yield opened
    opened.stop()


@pytest.fixture(scope="session")
def sightings(endpoint: Endpoint) -> Sightings:
    """What each client saw of each upstream by this route; a client runs once, on first use."""
    return Sightings(endpoint)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a failure, the logs of the servers that stood behind the test."""
    report = yield
    opened = getattr(item, "funcargs", {}).get("endpoint")
    if report.failed and isinstance(opened, Endpoint):
        for server in opened.servers:
            report.sections.append((f"log of {server.name}", server.log()))
    return report

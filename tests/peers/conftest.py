"""Fixtures of the peers' tests: real servers by each route, and what real clients saw of them.

Clients are under way, a few at a time, from the first test on that looks at any of them, and so
are conformance runs; each test waits for its own. What a process of tests does not look at does not
run in it: the modules of tests may be in several.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any  # the values of parameters

import pytest

from peers.clients import Sightings
from peers.conformance import Verdicts
from peers.endpoint import Endpoints
from peers.upstreams import missing_node_parts

AT_ONCE = 3


@pytest.fixture(scope="session")
def node_parts() -> None:
    """Fail, loudly and never by a skip, where the Node peers are not installed."""
    missing = missing_node_parts()
    if missing:
        pytest.fail(missing, pytrace=False)


@pytest.fixture(scope="session")
def endpoints(
    node_parts: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoints]:
    """Ask it for the URL of an upstream by a route."""
    opened = Endpoints(tmp_path_factory.mktemp("peers"))
    yield opened
    opened.stop()


@pytest.fixture(scope="session")
def executor(endpoints: Endpoints) -> Iterator[Executor]:
    """Runs what is under way; it has ended before the servers do."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def sightings(
    request: pytest.FixtureRequest, endpoints: Endpoints, executor: Executor
) -> Sightings:
    """What each client saw of each upstream by each route, as far as tests will look at it."""
    sightings = Sightings(endpoints, executor)
    sightings.begin(chosen(request, "route", "pair"))
    return sightings


@pytest.fixture(scope="session")
def verdicts(
    request: pytest.FixtureRequest,
    endpoints: Endpoints,
    executor: Executor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Verdicts:
    """What the conformance suite found at each upstream by each route, likewise."""
    verdicts = Verdicts(endpoints, executor, tmp_path_factory.mktemp("conformance"))
    verdicts.begin(run for (run,) in chosen(request, "run"))
    return verdicts


def chosen(request: pytest.FixtureRequest, *names: str) -> list[tuple[Any, ...]]:
    """The values of these parameters over all chosen tests that have them, each once."""
    callspecs = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = (callspec.params for callspec in callspecs if callspec is not None)
    values = (tuple(given[name] for name in names) for given in parameters if {*names} <= {*given})
    return list(dict.fromkeys(values))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a failure, the logs of the servers that stood behind the test."""
    report = yield
    given = getattr(item, "funcargs", {})
    if report.failed and isinstance(given.get("endpoints"), Endpoints):
        report.sections += given["endpoints"].logs(given.get("route"))
    return report

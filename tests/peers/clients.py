"""Runs the client drivers in processes of their own and collects what they saw.

Owns the drivers' command lines, who plays which scenarios by which route, and the reading of the
drivers' lines; the scenarios themselves are in python_client.py and ts_client.mjs. One process
plays all the clients of an SDK that a route is tried with: an SDK takes a second to import.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from typing import Any  # what was seen is JSON

from peers.endpoint import POOL, SHARED, Endpoints
from peers.upstreams import HERE, NODE, SCOPE, UPSTREAMS, Plan

CLIENTS_WITHIN_S = 300
PYTHON_DRIVER = (sys.executable, str(HERE / "python_client.py"))
TS_DRIVER = (str(NODE), str(HERE / "ts_client.mjs"), str(SCOPE / "sdk"))
# The same client as it was when this revision was its latest.
OLDER = "2025-03-26"
DRIVERS = {
    "python-legacy": PYTHON_DRIVER, "python-auto": PYTHON_DRIVER, "typescript": TS_DRIVER,
    "python-older": (*PYTHON_DRIVER, OLDER), "python-sse": PYTHON_DRIVER,
    "typescript-sse": TS_DRIVER,
}  # fmt: skip
SSE = "sse"
MODES = {"python-auto": "auto", "python-sse": SSE, "typescript-sse": SSE}

ASKED = ("sampling", "elicitation", "roots")
EVERY_SCENARIO = (
    "initialize", "lists", "progress", "cancellation", *ASKED, "logging", "subscription",
    "two_clients",
)  # fmt: skip
# Where clients share a process, it can ask none of them, and its log could be anybody's.
SHARED_SCENARIOS = ("initialize", "lists", "progress", "cancellation", "refusals", "two_clients")
ERA_SCENARIOS = ("initialize", "lists", "progress", "cancellation")

Pair = tuple[str, str]  # a client and the upstream that it talks to
Seen = dict[str, dict[str, Any]]  # by scenario, its line


def scenarios(route: str, pair: Pair) -> tuple[str, ...]:
    """What a pair plays by a route."""
    if pair == ("python-auto", "everything"):
        return ERA_SCENARIOS  # it may be served in the next era, which knows no subscription
    if pair[0] == "python-older":
        return ERA_SCENARIOS
    if route not in (SHARED, POOL):
        return EVERY_SCENARIO
    # The other server does not tell who subscribed from who did not.
    return (*SHARED_SCENARIOS, *(["subscription"] if pair[1] == "everything" else []))


def plan(route: str, upstream: str) -> Plan:
    """The upstream's plan, less what a route cannot show."""
    planned = UPSTREAMS[upstream].plan | {"asks": route not in (SHARED, POOL)}
    # In a pool, the process that is asked is not always the one where a call was cancelled.
    return planned | {"cancelled": None} if route == POOL else planned


def run_driver(
    driver: tuple[str, ...], jobs: list[Plan], environment: Mapping[str, str] | None = None
) -> dict[str, Seen]:
    """Play jobs, all at once, and return the lines of each by its name and the scenario.

    A job has a name, the target (a URL, or the command of a server over stdio), the client's
    mode (SSE for the transport of 2024-11-05), the plan and the scenarios. One line more, "end",
    tells how it ended outside of those.
    """
    try:
        done = subprocess.run(
            [*driver, json.dumps(jobs)],
            capture_output=True,
            timeout=CLIENTS_WITHIN_S,
            env=environment,
        )
        out, why = done.stdout, done.stderr.decode()
    except subprocess.TimeoutExpired as late:
        out, why = late.stdout or b"", f"not at its end within {CLIENTS_WITHIN_S} s"
    seen: dict[str, Seen] = {job["name"]: {"end": {"error": why}} for job in jobs}
    for line in map(json.loads, out.splitlines()):
        seen[line["job"]][line["scenario"]] = line
    return seen


class Sightings:
    """What clients saw, by route, pair and scenario."""

    def __init__(self, endpoints: Endpoints, executor: Executor) -> None:
        self._endpoints = endpoints
        self._executor = executor
        self._seen: dict[tuple[str, Pair], Future[dict[str, Seen]]] = {}

    def begin(self, wanted: Iterable[tuple[str, Pair]]) -> None:
        """Have each of these pairs play by its route, in the background."""
        batches: dict[tuple[str, tuple[str, ...]], list[Pair]] = {}
        for route, pair in wanted:
            batches.setdefault((route, DRIVERS[pair[0]]), []).append(pair)
        for (route, driver), pairs in batches.items():
            future = self._executor.submit(self._play, route, driver, pairs)
            self._seen |= {(route, pair): future for pair in pairs}

    def of(self, route: str, pair: Pair, scenario: str) -> Any:
        """What a client saw in a scenario.

        Raises AssertionError with the error that the client met in the scenario.
        """
        seen = self._seen[route, pair].result()["-to-".join(pair)]
        line = seen.get(scenario, seen["end"])
        assert "saw" in line, line["error"]
        return line["saw"]

    def _play(self, route: str, driver: tuple[str, ...], pairs: list[Pair]) -> dict[str, Seen]:
        jobs = [self._job(route, pair) for pair in pairs]
        return run_driver(driver, jobs, self._endpoints.environment)

    def _job(self, route: str, pair: Pair) -> Plan:
        mode = MODES.get(pair[0], "legacy")
        url_of = self._endpoints.sse_url if mode == SSE else self._endpoints.url
        return {
            "name": "-to-".join(pair),
            "target": url_of(route, pair[1]),
            "mode": mode,
            "plan": plan(route, pair[1]),
            "scenarios": scenarios(route, pair),
        }

"""Runs the published conformance suite and reads its verdicts.

Owns the suite's command line and result files; what is scored for a revision of the protocol is
read from the suite's own requirement list, where it has one. It starts no server and no proxy.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from peers.endpoint import Endpoints
from peers.upstreams import HERE, NODE, SCOPE

SUITE = SCOPE / "conformance"
SUITE_COMMAND = (str(NODE), str(SUITE / "dist/index.js"))
CLIENT_COMMAND = f"{sys.executable} {HERE / 'client_via_proxy.py'}"
SUITE_WITHIN_S = 300
RESULT_DIRECTORY = re.compile(r"(server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")

Checks = list[tuple[str, str]]  # each a check's id and status


@dataclass
class Results:
    """The verdicts of one run, by scenario."""

    output: str
    checks: dict[str, Checks] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)  # what the suite says of each

    def passed(self) -> set[str]:
        """The scenarios with at least one success and no failure."""
        succeeded = (
            name for name, run in self.checks.items() if "SUCCESS" in (status for _, status in run)
        )
        return {*succeeded} - self.failures.keys()


def required_scenarios(revision: str) -> set[str]:
    """The scenarios that a server must pass for a revision such as 2025-11-25."""
    listed: set[str] = set()
    section = ""
    for line in (SUITE / "requirements" / f"{revision}.yaml").read_text().splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            section = heading[1]
        elif section == "server" and (entry := re.fullmatch(r"  - (\S+)", line)):
            listed.add(entry[1])
    return listed


class Run(NamedTuple):
    """One run of the suite: the revision's scenarios, against an upstream by a route."""

    route: str
    upstream: str
    revision: str

    def __call__(self, endpoints: Endpoints, out_dir: Path) -> Results:
        """Run the scenarios one after the other."""
        url = endpoints.url(self.route, self.upstream)
        if (SUITE / "requirements" / f"{self.revision}.yaml").exists():
            chosen = ["--requirements", self.revision]
        else:
            chosen = ["--spec-version", self.revision, "--suite", "all"]
        return run_suite(["server", "--url", url, *chosen], out_dir)


class ClientRun(NamedTuple):
    """One run in which the suite plays the server, and a client comes to it through the proxy."""

    scenario: str

    def __call__(self, endpoints: Endpoints, out_dir: Path) -> Results:
        """Run the scenario; the client starts its own proxy."""
        chosen = ["--command", CLIENT_COMMAND, "--scenario", self.scenario]
        return run_suite(["client", *chosen], out_dir)


def run_suite(arguments: list[str], out_dir: Path) -> Results:
    """Run the suite and read what it found.

    Raises subprocess.TimeoutExpired after SUITE_WITHIN_S. The suite's exit code is not trusted:
    a scenario counts as passed by its checks alone.
    """
    command = [*SUITE_COMMAND, *arguments, "-o", str(out_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_WITHIN_S)
    results = Results(done.stdout + done.stderr)
    for path in sorted(out_dir.glob("*/checks.json")):
        named = RESULT_DIRECTORY.fullmatch(path.parent.name)
        assert named, f"unknown result directory {path.parent.name}"
        checks = json.loads(path.read_text())
        scenario = named["scenario"]
        results.checks[scenario] = [(check["id"], check["status"]) for check in checks]
        failed = [check for check in checks if check["status"] == "FAILURE"]
        if failed:
            said = [check.get("errorMessage", check["id"]) for check in failed]
            results.failures[scenario] = said
    return results


class Verdicts:
    """What the suite found in each run."""

    def __init__(self, endpoints: Endpoints, executor: Executor, directory: Path) -> None:
        self._endpoints = endpoints
        self._executor = executor
        self._directory = directory
        self._results: dict[Run | ClientRun, Future[Results]] = {}

    def begin(self, wanted: Iterable[Run | ClientRun]) -> None:
        """Have the suite run, in the background."""
        for run in wanted:
            if run not in self._results:
                out_dir = self._directory / "-".join(run)
                self._results[run] = self._executor.submit(run, self._endpoints, out_dir)

    def of(self, run: Run | ClientRun) -> Results:
        """What the suite found; raises NotReadyError when there was nothing to look at."""
        self.begin([run])
        return self._results[run].result()

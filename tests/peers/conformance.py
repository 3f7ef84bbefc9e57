"""Runs the published conformance suite against a URL and reads its verdicts.

Owns the suite's command line and result files; what is scored for a revision of the protocol is
read from the suite's own requirement list. It starts no server.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from peers.upstreams import NODE, SCOPE

SUITE = SCOPE / "conformance"
SUITE_WITHIN_S = 60
RESULT_DIRECTORY = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass
class Results:
    """The verdicts of one run: checks by scenario, each a pair of check id and status."""

    required: list[str]
    output: str
    checks: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def passed(self) -> list[str]:
        """The required scenarios with at least one success and no failure."""
        return [name for name in self.required if self._passed(name)]

    def failures(self) -> list[str]:
        """Each failed check of a required scenario, and each required scenario without result."""
        return [
            f"{name}: {check}"
            for name in self.required
            for check, status in self.checks.get(name, [("not run", "FAILURE")])
            if status == "FAILURE"
        ]

    def _passed(self, name: str) -> bool:
        statuses = {status for _, status in self.checks.get(name, [])}
        return "SUCCESS" in statuses and "FAILURE" not in statuses


def required_scenarios(requirements: str) -> list[str]:
    """The scenarios that a server must pass for a revision such as 2025-11-25."""
    listed: list[str] = []
    section = ""
    for line in (SUITE / "requirements" / f"{requirements}.yaml").read_text().splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            section = heading[1]
        elif section == "server" and (entry := re.fullmatch(r"  - (\S+)", line)):
            listed.append(entry[1])
    return listed


def run_conformance(url: str, out_dir: Path, requirements: str = "2025-11-25") -> Results:
    """Run the server scenarios of a revision, one after the other, against a URL.

    Raises subprocess.TimeoutExpired after SUITE_WITHIN_S. The suite's exit code is not
    trusted: a scenario counts as passed by its checks alone.
    """
    command = [str(NODE), str(SUITE / "dist/index.js"), "server", "--url", url]
    command += ["--requirements", requirements, "-o", str(out_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_WITHIN_S)
    results = Results(required_scenarios(requirements), done.stdout + done.stderr)
    for path in sorted(out_dir.glob("*/checks.json")):
        named = RESULT_DIRECTORY.fullmatch(path.parent.name)
        assert named, f"unknown result directory {path.parent.name}"
        checks = json.loads(path.read_text())
        results.checks[named["scenario"]] = [(check["id"], check["status"]) for check in checks]
    return results

"""Runs the client drivers in processes of their own and collects what they saw.

Owns the drivers' command lines and the reading of their lines; the scenarios themselves are in
python_client.py and ts_client.mjs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any  # what was seen is JSON

from peers.upstreams import HERE, NODE, SCOPE, UPSTREAMS, Plan

CLIENT_WITHIN_S = 60
PYTHON_CLIENT = [sys.executable, str(HERE / "python_client.py")]
TS_CLIENT = [str(NODE), str(HERE / "ts_client.mjs"), str(SCOPE / "sdk")]

Seen = dict[str, Any]


def run_client(client: str, target: str, plan: Plan, *chosen: str) -> dict[str, Seen]:
    """Run a client's scenarios, or the chosen ones, and return its line of each.

    The clients: python-legacy, python-auto, typescript; the target of a Python one is a URL or
    the command of a stdio server as a JSON list. One line more, "end", tells why the driver
    failed outside its scenarios, as in connecting or leaving.
    """
    match client:
        case "python-legacy":
            command = [*PYTHON_CLIENT, target, "legacy"]
        case "python-auto":
            command = [*PYTHON_CLIENT, target, "auto"]
        case "typescript":
            command = [*TS_CLIENT, target]
        case _:
            raise ValueError(f"unknown client {client}")
    command += [json.dumps(plan), *chosen]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CLIENT_WITHIN_S)
        out, why = done.stdout, done.stderr.decode() if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        out, why = late.stdout or b"", f"not at its end within {CLIENT_WITHIN_S} s"
    lines = [json.loads(line) for line in out.splitlines()]
    seen: dict[str, Seen] = {line["scenario"]: line for line in lines}
    return {**seen, "end": {"error": why} if why else {"saw": {}}}


class Sightings:
    """What clients saw, by client, upstream and scenario."""

    def __init__(self, endpoint: Callable[[str], str]) -> None:
        self._endpoint = endpoint
        self._seen: dict[tuple[str, ...], dict[str, Seen]] = {}

    def of(self, client: str, upstream: str, scenario: str, *chosen: str) -> Seen:
        """What a client saw in a scenario; the client runs once, on the first question.

        Raises AssertionError with the error that the client met in the scenario.
        """
        key = (client, upstream, *chosen)
        if key not in self._seen:
            plan = UPSTREAMS[upstream].plan
            self._seen[key] = run_client(client, self._endpoint(upstream), plan, *chosen)
        seen = self._seen[key]
        line = seen.get(scenario, seen["end"])
        assert "saw" in line, line["error"]
        saw: Seen = line["saw"]
        return saw

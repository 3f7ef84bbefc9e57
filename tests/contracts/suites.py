"""Every contract of a world's suites, by name, for the worlds that have to keep them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy_actors.world.base import World

Contract = Callable[[World], None]

# Of a port that no world has; test_session_store.py runs it on every store.
_OF_STORES = "suite_store"


def _contracts() -> Iterator[tuple[str, Contract]]:
    for path in sorted(Path(__file__).parent.glob("suite_*.py")):
        if path.stem == _OF_STORES:
            continue
        suite = importlib.import_module(f"tests.contracts.{path.stem}")
        for name, contract in vars(suite).items():
            if name.startswith("contract_"):
                yield f"{path.stem}-{name.removeprefix('contract_')}", contract


CONTRACTS = dict(_contracts())

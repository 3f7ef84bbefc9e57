"""What differs between the revisions of the session era: the whole table, once more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy_actors.protocol import revisions
from proxy_actors.protocol.revisions import (
    LATEST,
    SESSION_VERSIONS,
    allows_batches,
    requires_version_header,
)

V2411, V0326, V0618, V1125 = "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"


def test_revisions_are_those_with_a_handshake() -> None:
    """PROTOCOL sections 3 and 4; MCP-S-11: any other is refused, 2026-07-28 as well."""
    assert SESSION_VERSIONS == (V2411, V0326, V0618, V1125)
    assert LATEST == V1125


@pytest.mark.parametrize(
    ("rule", "spoken"),
    [
        (allows_batches, {V0326}),  # MCP-S-12, MCP-S-13
        (requires_version_header, {V0618, V1125}),  # MCP-S-10
    ],
)
def test_rule_holds_in_these_revisions_and_no_other(
    rule: Callable[[str], bool], spoken: set[str]
) -> None:
    assert {version for version in SESSION_VERSIONS if rule(version)} == spoken


def test_names_of_methods_are_those_of_the_schema() -> None:
    assert revisions.INITIALIZE == "initialize"
    assert revisions.INITIALIZED == "notifications/initialized"
    assert revisions.PING == "ping"
    assert revisions.CANCELLED == "notifications/cancelled"
    assert revisions.PROGRESS == "notifications/progress"
    assert revisions.URI_METHODS == {
        "resources/subscribe", "resources/unsubscribe", "notifications/resources/updated",
    }  # fmt: skip

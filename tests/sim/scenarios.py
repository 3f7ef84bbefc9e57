"""All scenarios, by the name under which a seed is replayed."""

from __future__ import annotations

from tests.sim.campaign import Scenario
from tests.sim.plane_scenario import PLANE
from tests.sim.pool_scenario import POOL
from tests.sim.sse_scenario import SSE
from tests.sim.stdio_scenario import STDIO
from tests.sim.stream_scenario import STREAMS
from tests.sim.whole_scenario import SEVERAL, WHOLE

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (WHOLE, SEVERAL, POOL, PLANE, STREAMS, SSE, *STDIO)
}

"""Contracts of `World.open_metrics` and `World.process_figures`."""

from __future__ import annotations

from tests.contracts.staging import soon

from proxy_actors.errors import ConnectError
from proxy_actors.metrics import Figure, Kind
from proxy_actors.world.base import World


def contract_sink_takes_figures_whether_anybody_receives_them_or_not(world: World) -> None:
    sink = world.open_metrics("localhost", 9, "prefix", soon(world))
    for _ in range(3):
        lost, _ = sink.send([Figure("name", kind, (1.0,)) for kind in Kind])
        assert lost == 0
    sink.close()
    sink.close()


def contract_several_sinks_may_be_open(world: World) -> None:
    sinks = [world.open_metrics("127.0.0.1", 9, "prefix", soon(world)) for _ in range(2)]
    for sink in sinks:
        sink.close()


def contract_host_that_cannot_be_resolved_is_told(world: World) -> None:
    try:
        world.open_metrics("nowhere.invalid", 8125, "prefix", soon(world))
    except ConnectError as error:
        assert "nowhere.invalid" in str(error)
    else:
        raise AssertionError("it was resolved")


def contract_process_is_described(world: World) -> None:
    before = world.process_figures()
    after = world.process_figures()
    assert after.threads >= 1
    assert len(after.gc) == 3
    assert after.cpu_s >= before.cpu_s >= 0
    assert after.log_dropped == 0

"""A stdio upstream in SESSION mode: parent of a child process for each session."""

from __future__ import annotations

from proxy_actors.actors.channel import Failure
from proxy_actors.actors.directory import Directory
from proxy_actors.actors.refs import Slot
from proxy_actors.actors.session_channels import SessionChannels
from proxy_actors.actors.stdio_process import StdioProcess
from proxy_actors.actors.stream_directory import StreamDirectory
from proxy_actors.actors.subscriber import Subscribers
from proxy_actors.policy.stdio_children import ChildrenLimits
from proxy_actors.policy.stdio_exclusive import ExclusivePolicy
from proxy_actors.world.base import ChildCommand, Mailbox, World


class StdioUpstream(SessionChannels):
    """The actor of one stdio upstream in SESSION mode.

    Args:
        slot: its stable name.
        upstream: the upstream's configured name.
        command: what every child executes.
        registry: hears of sessions that are lost with their child.
        streams, processes: where streams and children are listed.
        failure: makes the JSON-RPC error that answers a call.
    """

    def __init__(
        self,
        world: World,
        slot: Slot,
        upstream: str,
        command: ChildCommand,
        registry: Mailbox,
        streams: StreamDirectory,
        processes: Directory,
        subscribers: Subscribers,
        failure: Failure,
        limits: ChildrenLimits = ChildrenLimits(),
    ) -> None:
        def make(name: str) -> StdioProcess:
            return StdioProcess(
                world, name, command, ExclusivePolicy(), upstream, streams, subscribers, failure
            )

        super().__init__(world, slot, upstream, make, registry, processes, limits)

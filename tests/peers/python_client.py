"""Drives the Python SDK's client through every scenario and prints what it saw.

Owns the Python half of the vocabulary that upstreams.Plan defines; ts_client.mjs is the other,
and prints the same. It is run as a script, so that pytest's process stays free of the SDK:

    python_client.py [REVISION] JOBS

REVISION is the latest that the client knows, as if the SDK was of that time. JOBS is a JSON list of
what clients.run_driver calls jobs; their clients play at the same time, each its own scenarios in
their order. One JSON line a scenario on standard output: {"job", "scenario"} with what it "saw" or
its "error".
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from typing import Any  # plans, arguments and what was seen are JSON
from uuid import uuid4

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext, Transport, session
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

SCENARIO_WITHIN_S = 30
IN_FLIGHT = 5
SSE = "sse"  # the mode of a client of the transport of 2024-11-05

Json = dict[str, Any]
SCENARIOS: dict[str, Callable[["Peer", Json], Awaitable[Json]]] = {}


def scenario(
    run: Callable[["Peer", Json], Awaitable[Json]],
) -> Callable[["Peer", Json], Awaitable[Json]]:
    SCENARIOS[run.__name__] = run
    return run


class Peer:
    """One client, and everything that the server told or asked it."""

    def __init__(self, target: str | list[str], mode: str, name: str) -> None:
        self.name = name
        self.target = target
        self.mode = mode
        self.logs: list[str] = []
        self.updated: list[str] = []
        self.sampled: list[str] = []
        self.elicited: list[str] = []
        self.roots_asked = 0
        self._news = anyio.Event()
        self._listening = anyio.Event()
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(SCENARIO_WITHIN_S), event_hooks={"response": [self._on_response]}
        )
        self.client = Client(
            self._transport(),
            mode="legacy" if mode == SSE else mode,
            client_info=types.Implementation(name=name, version="1"),
            sampling_callback=self._on_sampling,
            elicitation_callback=self._on_elicitation,
            list_roots_callback=self._on_roots,
            logging_callback=self._on_log,
            message_handler=self._on_message,
        )

    def _transport(self) -> Transport:
        if isinstance(self.target, str) and self.mode == SSE:
            self._listening.set()  # the one stream is open from the beginning
            return sse_client(self.target)
        if isinstance(self.target, str):
            return streamable_http_client(self.target, http_client=self._http)
        self._listening.set()
        command, *arguments = self.target
        return stdio_client(StdioServerParameters(command=command, args=arguments))

    async def __aenter__(self) -> "Peer":
        await self._http.__aenter__()
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self.client.__aexit__(*failure)
        await self._http.__aexit__(*failure)

    async def call(self, planned: Json, *, progress: Any = None, **values: str) -> str:
        """Call a planned tool and return its text; values replace their upper-case names."""
        arguments = {
            key: values.get(value.lower(), value) if isinstance(value, str) else value
            for key, value in planned["arguments"].items()
        }
        result = await self.client.call_tool(
            planned["tool"], arguments, progress_callback=progress
        )
        return "".join(part.text for part in result.content if part.type == "text")

    async def say(self, planned: Json, value: str) -> str:
        """Call a planned tool of one argument with that value."""
        return await self.call({**planned, "arguments": {planned["argument"]: value}})

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for news until something holds."""
        while not holds():
            self._news = anyio.Event()
            await self._news.wait()

    async def listening(self) -> None:
        """Wait until the session's own stream is open: before that, what it carries is lost."""
        await self._listening.wait()

    async def _on_response(self, response: httpx2.Response) -> None:
        if response.request.method == "GET" and response.status_code == 200:
            self._listening.set()

    async def _on_sampling(
        self, context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        [message] = params.messages
        assert isinstance(message.content, types.TextContent)
        self.sampled.append(message.content.text)
        answer = types.TextContent(text=f"{self.name} answers {message.content.text}")
        return types.CreateMessageResult(role="assistant", model="none", content=answer)

    async def _on_elicitation(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        self.elicited.append(params.message)
        return types.ElicitResult(
            action="accept",
            content={"username": self.name, "email": f"{self.name}@example.org"},
        )

    async def _on_roots(self, context: ClientRequestContext) -> types.ListRootsResult:
        self.roots_asked += 1
        home = types.Root.model_validate({"uri": f"file:///{self.name}", "name": "home"})
        return types.ListRootsResult(roots=[home])

    async def _on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append(str(params.data))
        self._news.set()

    async def _on_message(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updated.append(str(message.params.uri))
            self._news.set()


@scenario
async def initialize(peer: Peer, plan: Json) -> Json:
    server = peer.client.server_info
    capabilities = peer.client.server_capabilities.model_dump(exclude_none=True)
    return {
        "protocol": peer.client.protocol_version,
        "server": server.name if server else None,
        "capabilities": sorted(capabilities),
    }


@scenario
async def lists(peer: Peer, plan: Json) -> Json:
    tools = await peer.client.list_tools()
    prompts = await peer.client.list_prompts()
    resources = await peer.client.list_resources()
    return {
        "tools": [tool.name for tool in tools.tools],
        "prompts": [prompt.name for prompt in prompts.prompts],
        "resources": [str(resource.uri) for resource in resources.resources],
    }


@scenario
async def progress(peer: Peer, plan: Json) -> Json:
    seen: list[tuple[float, float | None]] = []

    async def note(value: float, total: float | None, message: str | None) -> None:
        seen.append((value, total))

    answer = await peer.call(plan["progress"], progress=note)
    return {"progress": seen, "answer": answer}


@scenario
async def cancellation(peer: Peer, plan: Json) -> Json:
    mark = uuid4().hex
    answers: list[str] = []
    with anyio.CancelScope() as scope:

        async def cancel(value: float, total: float | None, message: str | None) -> None:
            scope.cancel()

        answers.append(await peer.call(plan["endless"], progress=cancel, mark=mark))
    server = plan["cancelled"] and await peer.call(plan["cancelled"], mark=mark)
    return {"answers": answers, "server": server, "after": await peer.say(plan["echo"], mark)}


@scenario
async def sampling(peer: Peer, plan: Json) -> Json:
    answer = await peer.say(plan["sampling"], "How many?")
    return {"asked": peer.sampled, "answer": answer}


@scenario
async def elicitation(peer: Peer, plan: Json) -> Json:
    answer = await peer.call(plan["elicitation"])
    return {"asked": peer.elicited, "answer": answer}


@scenario
async def roots(peer: Peer, plan: Json) -> Json:
    await peer.listening()
    answers = [await peer.call(planned) for planned in plan["roots"]]
    return {"asked": peer.roots_asked, "answers": answers}


@scenario
async def refusals(peer: Peer, plan: Json) -> Json:
    """What the tools say that would ask this client, where it cannot be asked."""
    said: Json = {}
    for name, planned in plan["asking"].items():
        try:
            said[name] = await peer.call(planned)
        except MCPError as error:
            said[name] = error.message
    return said


@scenario
async def logging(peer: Peer, plan: Json) -> Json:
    """Make the server log, first below the level that was set; no tool planned: by subscribing."""
    await peer.listening()
    planned = plan["logging"]

    def matching() -> list[str]:
        return [log for log in peer.logs if planned["match"] in log]

    async def provoke() -> None:
        if "tool" in planned:
            await peer.call(planned)
        else:
            await peer.client.subscribe_resource("test://logged")

    await peer.client.set_logging_level("emergency")
    await provoke()
    quiet = matching()
    await peer.client.set_logging_level("debug")
    await provoke()
    await peer.until(lambda: len(matching()) >= planned["count"])
    return {"quiet": quiet, "loud": matching()[len(quiet) :]}


@scenario
async def subscription(peer: Peer, plan: Json) -> Json:
    await peer.listening()
    uri = f"test://{uuid4().hex}"
    await peer.client.subscribe_resource(uri)
    touched = [await peer.call(plan["touch"], uri=uri)]
    await peer.until(lambda: uri in peer.updated)
    await peer.client.unsubscribe_resource(uri)
    touched.append(await peer.call(plan["touch"], uri=uri))
    return {"uri": uri, "updated": peer.updated, "touched": touched}


@scenario
async def two_clients(peer: Peer, plan: Json) -> Json:
    """Two more clients at once, each with several calls and questions in flight."""
    saw: Json = {}

    async def busy(name: str) -> None:
        async with Peer(peer.target, peer.mode, name) as other:
            echoed: list[str] = []
            answers: list[str] = []

            async def echo(mark: str) -> None:
                echoed.append(await other.say(plan["echo"], mark))

            async def ask(mark: str) -> None:
                answers.append(await other.say(plan["sampling"], mark))

            async with anyio.create_task_group() as calls:
                for number in range(IN_FLIGHT):
                    calls.start_soon(echo, f"{name} says {number}")
                    if plan["asks"]:
                        calls.start_soon(ask, f"{name} asks {number}")
            saw[name] = {"echoed": echoed, "asked": other.sampled, "answers": answers}

    async with anyio.create_task_group() as clients:
        clients.start_soon(busy, "left")
        clients.start_soon(busy, "right")
    return saw


async def play(job: Json) -> None:
    def tell(scenario: str, **line: Any) -> None:
        print(json.dumps({"job": job["name"], "scenario": scenario, **line}), flush=True)

    try:
        async with Peer(job["target"], job["mode"], "peer") as peer:
            for name in job["scenarios"]:
                try:
                    with anyio.fail_after(SCENARIO_WITHIN_S):
                        tell(name, saw=await SCENARIOS[name](peer, job["plan"]))
                except Exception:
                    tell(name, error=traceback.format_exc())
    except Exception:
        tell("end", error=traceback.format_exc())
    else:
        tell("end", saw={})


async def play_all(jobs: list[Json]) -> None:
    async with anyio.create_task_group() as clients:
        for job in jobs:
            clients.start_soon(play, job)


def grow_younger(revision: str) -> None:
    """Have the SDK know no revision after this one."""
    session.LATEST_HANDSHAKE_VERSION = revision
    known = session.HANDSHAKE_PROTOCOL_VERSIONS
    session.HANDSHAKE_PROTOCOL_VERSIONS = tuple(x for x in known if x <= revision)


if __name__ == "__main__":
    # Roots, sampling and logging are deprecated in the next era, and the subject of this one.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    for revision in sys.argv[1:-1]:
        grow_younger(revision)
    anyio.run(play_all, json.loads(sys.argv[-1]))

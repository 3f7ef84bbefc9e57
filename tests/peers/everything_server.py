"""A server that offers one of everything, so that a proxy can be proven against it.

Owns the wiring, resources and prompts (the tools are in everything_tools), under the fixed
names that the conformance suite calls. It never imports proxy_actors. The suite and the
client drivers talk to it:

    everything_server.py --http PORT [--resumable]
    everything_server.py --stdio
    everything_server.py --forks SOCKET

The last one serves many over stdio, each by a process forked from this one: see forked_stdio.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import warnings
from typing import Any  # what the SDK passes for absent parameters

import anyio
import mcp_types as types
from everything_tools import MEMORY, PNG, TOOLS, Ctx, embedded, text
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

RETRY_MS = 100
EVENTS_MAX = 2_000

RESOURCES = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", None),
    "test://watched-resource": ("text/plain", "Watched."),
}
TEMPLATE = "test://template/{id}/data"

PROMPTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
}


async def list_tools(ctx: Ctx, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[definition for definition, _ in TOOLS.values()])


async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    _, run = TOOLS[params.name]
    result = await run(ctx, params.arguments or {})
    if isinstance(result, types.CallToolResult):
        return result
    return types.CallToolResult(content=result if isinstance(result, list) else [result])


async def list_resources(ctx: Ctx, params: Any) -> types.ListResourcesResult:
    listed = [
        types.Resource(uri=uri, name=uri.removeprefix("test://"), mime_type=mime_type)
        for uri, (mime_type, _) in RESOURCES.items()
    ]
    return types.ListResourcesResult(resources=listed)


async def list_templates(ctx: Ctx, params: Any) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(
        uri_template=TEMPLATE, name="template", mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(
    ctx: Ctx, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    uri = str(params.uri)
    before, after = TEMPLATE.split("{id}")
    contents: types.TextResourceContents | types.BlobResourceContents
    if uri in RESOURCES:
        mime_type, value = RESOURCES[uri]
        if value is None:
            contents = types.BlobResourceContents(uri=uri, mime_type=mime_type, blob=PNG.data)
        else:
            contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=value)
    elif uri.startswith(before) and uri.endswith(after):
        value = json.dumps({"id": uri.removeprefix(before).removesuffix(after)})
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=value)
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[contents])


async def subscribe(ctx: Ctx, params: types.SubscribeRequestParams) -> types.EmptyResult:
    MEMORY.client(ctx).subscribed[str(params.uri)] = ctx.session
    return types.EmptyResult()


async def unsubscribe(ctx: Ctx, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    MEMORY.client(ctx).subscribed.pop(str(params.uri), None)
    return types.EmptyResult()


async def set_level(ctx: Ctx, params: types.SetLevelRequestParams) -> types.EmptyResult:
    MEMORY.client(ctx).log_level = params.level
    return types.EmptyResult()


async def list_prompts(ctx: Ctx, params: Any) -> types.ListPromptsResult:
    listed = [
        types.Prompt(
            name=name,
            description=f"Takes {len(names)} arguments",
            arguments=[types.PromptArgument(name=name, required=True) for name in names],
        )
        for name, names in PROMPTS.items()
    ]
    return types.ListPromptsResult(prompts=listed)


async def get_prompt(ctx: Ctx, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    missing = [name for name in PROMPTS.get(params.name, ()) if name not in given]
    if params.name not in PROMPTS or missing:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt or missing arguments: {missing}")
    contents: list[types.ContentBlock]
    match params.name:
        case "test_prompt_with_arguments":
            arg1, arg2 = given["arg1"], given["arg2"]
            contents = [text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]
        case "test_prompt_with_embedded_resource":
            resource = embedded(given["resourceUri"], "text/plain", "Embedded in a prompt.")
            contents = [resource, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            contents = [PNG, text("Please analyze the image above.")]
        case _:
            contents = [text("This is a simple prompt for testing.")]
    messages = [types.PromptMessage(role="user", content=content) for content in contents]
    return types.GetPromptResult(messages=messages)


async def complete(ctx: Ctx, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [params.argument.value + ending for ending in ("", "-1", "-2")]
    return types.CompleteResult(
        completion=types.Completion(values=values, total=len(values), has_more=False)
    )


class EventLog(EventStore):
    """The last EVENTS_MAX events of all streams.

    The SDK names a stream by the id of its request and shares one store between sessions, so a
    replay can only be trusted while one session at a time is resumed.
    """

    def __init__(self) -> None:
        self._events: dict[int, tuple[str, types.JSONRPCMessage | None]] = {}
        self._last_id = 0

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._last_id += 1
        self._events[self._last_id] = (stream_id, message)
        self._events.pop(self._last_id - EVENTS_MAX, None)
        return str(self._last_id)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        after = int(last_event_id) if last_event_id.isdecimal() else 0
        if after not in self._events:
            return None
        stream_id = self._events[after][0]
        for event_id, (event_stream_id, message) in list(self._events.items()):
            if event_id > after and event_stream_id == stream_id and message is not None:
                await send_callback(EventMessage(message, str(event_id)))
        return stream_id


def make_server() -> Server[Any]:
    return Server(
        "everything",
        version="1.0.0",
        instructions="One of everything.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_set_logging_level=set_level,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
    )


async def serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


def serve_forks(server: Server[Any], path: str) -> None:
    """Serve each connection's pipes in a child, whose end closes the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path + ".new")
        listening.listen()
        os.rename(path + ".new", path)  # once it is there, it listens
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    _, pipes, _, _ = socket.recv_fds(connection, 1, 3)
    for number, pipe in enumerate(pipes):
        os.dup2(pipe, number)
        os.close(pipe)
    anyio.run(serve_stdio, server)


def serve_http(server: Server[Any], port: int, resumable: bool) -> None:
    import uvicorn  # a tenth of a second that only this transport needs

    app = server.streamable_http_app(
        event_store=EventLog() if resumable else None,
        retry_interval=RETRY_MS if resumable else None,
    )
    uvicorn.run(
        app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1
    )


def serve_sse(server: Server[Any], port: int) -> None:
    import uvicorn
    from mcp.server.sse import SseServerTransport
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Mount, Route

    transport = SseServerTransport("/messages/")

    async def stream(request: Request) -> Response:
        sender = request._send  # as the SDK's own documentation has it
        async with transport.connect_sse(request.scope, request.receive, sender) as streams:
            await server.run(*streams, server.create_initialization_options())
        return Response()

    messages = Mount("/messages/", app=transport.handle_post_message)
    app = Starlette(routes=[Route("/sse", endpoint=stream), messages])
    uvicorn.run(
        app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    transport = parser.add_mutually_exclusive_group(required=True)
    transport.add_argument("--http", type=int, metavar="PORT")
    transport.add_argument("--sse", type=int, metavar="PORT")
    transport.add_argument("--stdio", action="store_true")
    transport.add_argument("--forks", metavar="SOCKET")
    parser.add_argument("--resumable", action="store_true", help="number events and replay them")
    options = parser.parse_args()
    # Roots, sampling and logging are deprecated in the next era, and the subject of this one.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    server = make_server()
    if options.stdio:
        anyio.run(serve_stdio, server)
    elif options.forks:
        serve_forks(server, options.forks)
    elif options.sse:
        serve_sse(server, options.sse)
    else:
        serve_http(server, options.http, options.resumable)


if __name__ == "__main__":
    main()

"""The tools of the everything server, under the names that the conformance suite calls.

Owns the tools and what the server remembers of its clients. It opens no transport: that is
everything_server, which alone imports it. Beside the suite's tools there are a few that make
a proxy's duties visible: a call that only a cancellation ends, an update for every subscriber
of a resource, roots asked on either stream.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
import wave
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any  # JSON of tool arguments and schemas is Any by nature

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.message import ServerMessageMetadata

STEP_S = 0.05  # the pause that the conformance suite asks for between notifications
CANCELLED_WITHIN_S = 5
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Ctx = ServerRequestContext[Any, Any]
Arguments = dict[str, Any]
Run = Callable[[Ctx, Arguments], Awaitable[Any]]


def tiny_png() -> str:
    """One red pixel as base64 (PNG, W3C 2003-11-10, section 11.2)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", binascii.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    png = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def tiny_wav() -> str:
    """Ten silent samples as base64."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(20))
    return base64.b64encode(out.getvalue()).decode()


PNG = types.ImageContent(data=tiny_png(), mime_type="image/png")
WAV = types.AudioContent(data=tiny_wav(), mime_type="audio/wav")


def text(value: str) -> types.TextContent:
    return types.TextContent(text=value)


def embedded(uri: str, mime_type: str, value: str) -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=value)
    return types.EmbeddedResource(resource=contents)


@dataclass
class Client:
    """What the server remembers of one session; over stdio the one session's key is None."""

    log_level: str = "debug"
    subscribed: dict[str, ServerSession] = field(default_factory=dict)


class Memory:
    """The server's memory: clients by session id, and which endless calls were cancelled."""

    def __init__(self) -> None:
        self._clients: dict[str | None, Client] = {}
        self._cancelled: dict[str, anyio.Event] = {}

    def client(self, ctx: Ctx) -> Client:
        key = None
        if (request := ctx.request) is not None:  # HTTP+SSE has the session's id in its address
            key = request.headers.get("mcp-session-id") or request.query_params.get("session_id")
        return self._clients.setdefault(key, Client())

    def cancelled(self, mark: str) -> anyio.Event:
        return self._cancelled.setdefault(mark, anyio.Event())

    def subscribers(self, uri: str) -> list[ServerSession]:
        clients = self._clients.values()
        return [c.subscribed[uri] for c in clients if uri in c.subscribed]


MEMORY = Memory()
TOOLS: dict[str, tuple[types.Tool, Run]] = {}


def tool(
    description: str, schema: Arguments | None = None, **arguments: str
) -> Callable[[Run], Run]:
    """Enter a tool under its function's name; arguments are required and named with their type."""
    made = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in arguments.items()},
        "required": list(arguments),
    }

    def enter(run: Run) -> Run:
        definition = types.Tool(
            name=run.__name__, description=description, input_schema=schema or made
        )
        TOOLS[definition.name] = (definition, run)
        return run

    return enter


@tool("Returns one text")
async def test_simple_text(ctx: Ctx, arguments: Arguments) -> Any:
    return text("This is a simple text response for testing.")


@tool("Returns the text that it was given", text="string")
async def test_echo(ctx: Ctx, arguments: Arguments) -> Any:
    return text(arguments["text"])


@tool("Returns an image")
async def test_image_content(ctx: Ctx, arguments: Arguments) -> Any:
    return PNG


@tool("Returns a sound")
async def test_audio_content(ctx: Ctx, arguments: Arguments) -> Any:
    return WAV


@tool("Returns a resource inside the result")
async def test_embedded_resource(ctx: Ctx, arguments: Arguments) -> Any:
    return embedded("test://embedded-resource", "text/plain", "Embedded in a result.")


@tool("Returns text, image and resource together")
async def test_multiple_content_types(ctx: Ctx, arguments: Arguments) -> Any:
    value = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", "application/json", value)
    return [text("Multiple content types test:"), PNG, resource]


@tool("Always fails")
async def test_error_handling(ctx: Ctx, arguments: Arguments) -> Any:
    return failed("This tool intentionally returns an error for testing")


def failed(why: str) -> types.CallToolResult:
    return types.CallToolResult(content=[text(why)], is_error=True)


@tool("Logs three times at level info")
async def test_tool_with_logging(ctx: Ctx, arguments: Arguments) -> Any:
    level = MEMORY.client(ctx).log_level
    for step in ("execution started", "processing data", "execution completed"):
        if LEVELS.index("info") >= LEVELS.index(level):
            await ctx.session.send_log_message("info", f"Tool {step}", "everything", ctx.request_id)
        await anyio.sleep(STEP_S)
    return text("Logged.")


@tool("Reports progress 0, 50 and 100 of 100")
async def test_tool_with_progress(ctx: Ctx, arguments: Arguments) -> Any:
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100)
        await anyio.sleep(STEP_S)
    return text("Progress was reported.")


@tool("Asks the client's model", prompt="string")
async def test_sampling(ctx: Ctx, arguments: Arguments) -> Any:
    capability = types.ClientCapabilities(sampling=types.SamplingCapability())
    if not ctx.session.check_client_capability(capability):
        return failed("The client does not support sampling")
    message = types.SamplingMessage(role="user", content=text(arguments["prompt"]))
    answer = await ctx.session.create_message(
        [message], max_tokens=100, related_request_id=ctx.request_id
    )
    said = answer.content.text if isinstance(answer.content, types.TextContent) else "no text"
    return text(f"LLM response: {said}")


async def elicit(ctx: Ctx, message: str, required: list[str], **properties: Any) -> Any:
    """Ask the client's user, and tell the answer in the form that the suite expects."""
    capability = types.ClientCapabilities(elicitation=types.ElicitationCapability())
    if not ctx.session.check_client_capability(capability):
        return failed("The client does not support elicitation")
    schema = {"type": "object", "properties": properties, "required": required}
    answer = await ctx.session.elicit_form(message, schema, ctx.request_id)
    return text(f"action={answer.action}, content={json.dumps(answer.content, sort_keys=True)}")


@tool("Asks the client's user", message="string")
async def test_elicitation(ctx: Ctx, arguments: Arguments) -> Any:
    string = {"type": "string"}
    required = ["username", "email"]
    return await elicit(ctx, arguments["message"], required, username=string, email=string)


@tool("Asks the client's user, with a default for each primitive type (SEP-1034)")
async def test_elicitation_sep1034_defaults(ctx: Ctx, arguments: Arguments) -> Any:
    return await elicit(
        ctx,
        "Is this still you?",
        [],
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        verified={"type": "boolean", "default": True},
    )


@tool("Asks the client's user to choose, in all five ways (SEP-1330)")
async def test_elicitation_sep1330_enums(ctx: Ctx, arguments: Arguments) -> Any:
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    return await elicit(
        ctx,
        "Choose",
        [],
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )


async def roots(ctx: Ctx, related_request_id: types.RequestId | None) -> Any:
    related = ServerMessageMetadata(related_request_id=related_request_id)
    listed = await ctx.session.send_request(
        types.ListRootsRequest(), types.ListRootsResult, metadata=related
    )
    return text(json.dumps([str(root.uri) for root in listed.roots]))


@tool("Asks for the client's roots on the stream that answers this call")
async def test_roots(ctx: Ctx, arguments: Arguments) -> Any:
    return await roots(ctx, ctx.request_id)


@tool("Asks for the client's roots on the session's own stream, as most servers do")
async def test_roots_standalone(ctx: Ctx, arguments: Arguments) -> Any:
    return await roots(ctx, None)


@tool("Reports progress once, then works until it is cancelled", mark="string")
async def test_endless(ctx: Ctx, arguments: Arguments) -> Any:
    try:
        await ctx.session.report_progress(1)
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        MEMORY.cancelled(arguments["mark"]).set()
        raise


@tool("Returns when the endless call of that mark was cancelled", mark="string")
async def test_await_cancelled(ctx: Ctx, arguments: Arguments) -> Any:
    with anyio.move_on_after(CANCELLED_WITHIN_S):
        await MEMORY.cancelled(arguments["mark"]).wait()
        return text("cancelled")
    return failed("not cancelled")


@tool("Tells every subscriber of a resource, in any session, that it changed", uri="string")
async def test_touch_resource(ctx: Ctx, arguments: Arguments) -> Any:
    told = MEMORY.subscribers(arguments["uri"])
    for session in told:
        await session.send_resource_updated(arguments["uri"])
    return text(str(len(told)))


@tool("Closes its own stream before it answers (SEP-1699)")
async def test_reconnection(ctx: Ctx, arguments: Arguments) -> Any:
    if ctx.close_sse_stream:
        await ctx.close_sse_stream()
    await anyio.sleep(STEP_S)
    return text("The answer of a resumed stream.")


@tool(
    "Has a schema of many JSON Schema 2020-12 keywords (SEP-1613, SEP-2106)",
    schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "home", "type": "object", "properties": {}}},
        "properties": {"address": {"$ref": "#/$defs/address"}, "phone": {"type": "string"}},
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["address"]}]}],
        "if": {"required": ["phone"]},
        "then": {"properties": {"phone": {"minLength": 1}}},
        "else": {"required": ["address"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(ctx: Ctx, arguments: Arguments) -> Any:
    return text("Accepted.")

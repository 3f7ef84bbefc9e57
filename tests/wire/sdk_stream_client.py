"""The Python SDK's client, calling a tool that counts: prints the numbers that each call brought.

Run as a script, so that pytest's process stays free of the SDK: URL, then one line of JSON on
standard input for each call, the arguments of its tool and how many numbers are to come: the SDK
handles them beside the answer, and some later. One line of JSON a call on standard output.
"""


from __future__ import annotations

import json
import sys

import anyio
import anyio.to_thread
import mcp_types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

PATIENCE_S = 30.0


async def main(url: str) -> None:
    numbers: list[object] = []
    came = [anyio.Event()]

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        numbers.append(params.data)
        came[0].set()

    async with streamable_http_client(url) as streams:
        async with ClientSession(streams[0], streams[1], logging_callback=on_log) as session:
            await session.initialize()
            print("ready", flush=True)
            while line := await anyio.to_thread.run_sync(sys.stdin.readline):
                arguments, count = json.loads(line)
                numbers.clear()
                answer = await session.send_request(
                    types.CallToolRequest(
                        params=types.CallToolRequestParams(name="t", arguments=arguments)
                    ),
                    types.CallToolResult,
                )
                with anyio.move_on_after(PATIENCE_S):
                    while len(numbers) < count:
                        came[0] = anyio.Event()
                        await came[0].wait()
                text = answer.content[0]
                assert isinstance(text, types.TextContent)
                print(json.dumps({"numbers": numbers, "text": text.text}), flush=True)


anyio.run(main, sys.argv[1])

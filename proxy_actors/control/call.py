"""`proxy-actors call`: one tool call over Streamable HTTP, as a client of the session era.

Owns one session with the far end, from initialize to DELETE, and prints what the tool returned.
Declares no client capability, never retries, and reads bounded amounts only. `__main__` calls it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TextIO
from urllib.parse import urlsplit

import requests
import sseclient
import urllib3

from proxy_actors import __version__
from proxy_actors.errors import (
    METHOD_NOT_FOUND,
    CallFailedError,
    ConfigurationError,
    ConnectError,
    DeadlineError,
)
from proxy_actors.logs import printable

REVISION = "2025-11-25"
REVISIONS_SPOKEN = ("2025-03-26", "2025-06-18", REVISION)
RESPONSE_BYTES_MAX = 16 * 1024 * 1024
READ_BYTES_MAX = 64 * 1024
CONNECT_S_MAX = 5.0
FAREWELL_S = 2.0
KEY_VARIABLE = "PROXY_ACTORS_KEY"
ERROR_FIELDS = ("reason", "upstream", "executed", "retryable", "retryAfterMs", "requestId")

Json = dict[str, Any]  # Any: whatever a JSON object may hold


def run(url: str, tool: str, arguments: Json, *, timeout_s: float, as_json: bool) -> bool:
    """Call a tool and print its content, or with `as_json` the whole result, on standard output.

    The API key, if one is needed, is the variable PROXY_ACTORS_KEY of the environment, which the
    process list does not show.

    Args:
        url: the MCP endpoint.
        timeout_s: the time for everything up to the answer, in seconds.

    Returns:
        False when the tool itself reported an error; its text then went to standard error.

    Raises:
        ConnectError: the far end cannot be reached.
        DeadlineError: the answer was not there in time.
        CallFailedError: the far end answered with an error, or with what is not MCP.
    """
    with requests.Session() as http:
        caller = _Caller(http, url, min(CONNECT_S_MAX, timeout_s / 2))
        try:
            with _alarm(timeout_s):
                caller.initialize()
                result = caller.call(tool, arguments)
        finally:
            caller.leave()
    _show(result, as_json)
    return not result.get("isError")


def parse_arguments(entries: Sequence[str]) -> Json:
    """Read key=value entries: a value that is JSON becomes that, any other one stays a string.

    Raises:
        ConfigurationError: an entry is not key=value, or a key comes twice.
    """
    arguments: Json = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not key or not equals:
            raise ConfigurationError(f"{entry!r} is not key=value")
        if key in arguments:
            raise ConfigurationError(f"the argument {key!r} comes twice")
        try:
            arguments[key] = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            arguments[key] = text
    return arguments


class _Caller:
    """A client's end of one session. Every method but `leave` raises as `run` says."""

    def __init__(self, http: requests.Session, url: str, connect_s: float) -> None:
        self._http = http
        self._url = url
        self._connect_s = connect_s
        self._session_open = False
        http.headers.update(
            {
                "Accept": "application/json, text/event-stream",
                "Accept-Encoding": "identity",
                "User-Agent": f"proxy-actors/{__version__}",
            }
        )
        if key := os.environ.get(KEY_VARIABLE):
            http.auth = partial(_show_key, key)

    def initialize(self) -> None:
        request = _request(
            1,
            "initialize",
            {
                "protocolVersion": REVISION,
                "capabilities": {},
                "clientInfo": {"name": "proxy-actors", "version": __version__},
            },
        )
        try:
            with self._post(request) as response:
                result = self._read_answer(response, 1)
        except requests.RequestException as error:
            raise ConnectError(f"cannot reach {self._url}: {_cause(error)}") from error
        revision = result.get("protocolVersion")
        # Only an initialize that succeeded opens a session; other answers may carry a stray id.
        session_id = response.headers.get("Mcp-Session-Id")
        if session_id is not None:
            self._http.headers["Mcp-Session-Id"] = session_id
            self._session_open = True
        if revision not in REVISIONS_SPOKEN:
            raise CallFailedError(f"the server speaks MCP {revision!r}, which this client does not")
        self._http.headers["MCP-Protocol-Version"] = revision
        self._tell({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, tool: str, arguments: Json) -> Json:
        request = _request(2, "tools/call", {"name": tool, "arguments": arguments})
        try:
            with self._post(request) as response:
                return self._read_answer(response, 2)
        except requests.RequestException as error:
            raise CallFailedError(f"{_cause(error)}; whether the tool ran is unknown") from error
        except (DeadlineError, KeyboardInterrupt) as error:
            self._cancel(2)
            if isinstance(error, DeadlineError):
                raise DeadlineError(f"{error}; whether the tool ran is unknown") from error
            raise

    def leave(self) -> None:
        """End the session, if there is one; the result does not hang on it, so errors do not."""
        if self._session_open:
            with suppress(requests.RequestException):
                self._http.delete(
                    self._url, timeout=FAREWELL_S, allow_redirects=False, stream=True
                ).close()

    def _post(self, message: Json, timeout_s: float | None = None) -> requests.Response:
        """Post a message. Redirects are not followed: they would turn the POST into a GET."""
        response = self._http.post(
            self._url,
            json=message,
            timeout=(self._connect_s, timeout_s),
            allow_redirects=False,
            stream=True,
        )
        if response.status_code >= 300:
            with response:
                raise CallFailedError(_describe_refusal(response))
        return response

    def _tell(self, message: Json) -> None:
        """Post a message that has no answer."""
        try:
            self._post(message).close()
        except requests.RequestException as error:
            raise CallFailedError(f"the connection broke: {_cause(error)}") from error

    def _cancel(self, request_id: int) -> None:
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": request_id, "reason": "the caller stopped waiting"},
        }
        with suppress(requests.RequestException, CallFailedError):
            self._post(message, FAREWELL_S).close()

    def _read_answer(self, response: requests.Response, request_id: int) -> Json:
        """Return the result for `request_id`, whether it comes as JSON or in a stream of events."""
        for message in _messages(response):
            if "method" in message:
                self._answer_server(message)
            elif message.get("id") in (request_id, None):  # null: the far end could not read ours
                return _result(message, response.status_code)
        raise CallFailedError("the response ended before the answer")

    def _answer_server(self, message: Json) -> None:
        """Answer what the server asks meanwhile: a ping must be, the rest was never offered."""
        if "id" not in message:
            return
        answer: Json = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": "not offered by this client"}
        self._tell(answer)


def _show_key(key: str, request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Show the key as Bearer, whatever a .netrc says of the host."""
    request.headers["Authorization"] = f"Bearer {key}"
    return request


def _request(request_id: int, method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def _messages(response: requests.Response) -> Iterator[Json]:
    """Yield the JSON-RPC messages of a response, flattening the batches of revision 2025-03-26."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        yield from _decode(b"".join(_chunks(response)))
    elif media_type == "text/event-stream":
        try:
            for event in sseclient.SSEClient(_chunks(response)).events():
                if event.event == "message" and event.data:  # a priming event has empty data
                    yield from _decode(event.data)
        except UnicodeDecodeError as error:
            raise CallFailedError("the stream is not UTF-8") from error
    else:
        raise CallFailedError(f"the answer is {media_type or 'of no type'}, not MCP: wrong URL?")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield what has arrived as soon as it has, up to the bound."""
    left = RESPONSE_BYTES_MAX
    try:
        while chunk := response.raw.read1(READ_BYTES_MAX, decode_content=True):
            left -= len(chunk)
            if left < 0:
                raise CallFailedError(f"the answer is longer than {RESPONSE_BYTES_MAX} bytes")
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise CallFailedError(f"the answer broke off: {_cause(error)}") from error


def _decode(text: str | bytes) -> list[Json]:
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallFailedError("the answer is not JSON") from error
    messages = decoded if isinstance(decoded, list) else [decoded]
    if not all(isinstance(message, dict) for message in messages):
        raise CallFailedError("the answer is not a JSON-RPC message")
    return messages


def _result(message: Json, status: int) -> Json:
    if "error" in message:
        raise CallFailedError(_describe_error(message["error"], status))
    result = message.get("result")
    if not isinstance(result, dict):
        raise CallFailedError("the answer holds neither a result nor an error")
    return result


def _describe_refusal(response: requests.Response) -> str:
    told = f"the server answered HTTP {response.status_code} {response.reason or ''}".rstrip()
    with suppress(CallFailedError):
        for message in _messages(response):
            if "error" in message:
                told = _describe_error(message["error"], response.status_code)
    if response.status_code == 404 and urlsplit(response.url).path == "/":
        told += f"; did you mean {response.url}mcp?"
    return told


def _describe_error(error: object, status: int) -> str:
    """Say what a JSON-RPC error says, and what the proxy's error contract adds to it."""
    if not isinstance(error, dict):
        return f"an error without a description (HTTP {status})"
    facts = [f"HTTP {status}", f"code: {error.get('code')}"]
    data = error.get("data")
    if isinstance(data, dict):
        for name in ERROR_FIELDS:
            if data.get(name) is not None:
                value = data[name]
                facts.append(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return f"{error.get('message')} ({', '.join(facts)})"


def _cause(error: BaseException) -> str:
    """Say what was at the bottom of an error: the layers above only wrap it."""
    while error.__context__ is not None:
        error = error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _show(result: Json, as_json: bool) -> None:
    if as_json:
        _print(json.dumps(result), sys.stdout)
        return
    content = result.get("content")
    if not isinstance(content, list) or not content:
        content = [result.get("structuredContent", result)]
    stream = sys.stderr if result.get("isError") else sys.stdout
    for block in content:
        is_text = isinstance(block, dict) and block.get("type") == "text"
        _print(str(block.get("text")) if is_text else json.dumps(block), stream)


def _print(text: str, stream: TextIO) -> None:
    """Print for a program as it is, for a terminal without what would steer the terminal."""
    if stream.isatty():
        text = printable(text, keep="\n\t")
    try:
        print(text.encode("utf-8", "backslashreplace").decode(), file=stream, flush=True)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain again when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _alarm(after_s: float) -> Iterator[None]:
    """Raise DeadlineError in the body after `after_s` seconds, wherever it waits.

    The timeouts of `requests` are for one read each: a server that drips could hold a call forever.
    """

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineError(f"no answer within {after_s:g} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

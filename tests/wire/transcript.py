r"""Transcripts: what one peer sends over one connection, and what must become of it.

A file is a header of `key: value` lines, an empty line, and the bytes. In the bytes and in expected
bodies \r \n \t \0 \\ and \xHH are escapes, line ends of the file itself count for nothing, and
<<3*abc>> is abcabcabc. The keys:

rule      the rule that the file stands for
about     what it shows, in a sentence
from      client or upstream
request   method, target and body of a request that must be served; once for each, in order
refused   the status that answers what follows the requests; the connection is closed then
held      yes: part of a request is left at the end
method    of the request that an upstream answers, if not POST
response  status and body of an upstream's response, as far as it must arrive
ends      yes: the upstream closes at the end
reusable  whether the upstream's connection may carry another exchange
failed    the reason of the failure that the response must end in
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).parent / "transcripts"

_RUN = re.compile(r"<<(\d+)\*(.*?)>>")
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_SIMPLE_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_NEAR_BYTES = 8


@dataclass
class Transcript:
    """One file. `cuts` are the offsets worth cutting at: all, but for the inside of long runs."""

    name: str
    sender: str
    data: bytes
    cuts: list[int]
    requests: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    refused: int | None = None
    held: bool = False
    method: bytes = b"POST"
    response: tuple[int, bytes] | None = None
    ends: bool = False
    reusable: bool = False
    failed: str | None = None


def load(kind: str, sender: str) -> list[Transcript]:
    """Return the transcripts of `valid` or `invalid` that `client` or `upstream` sends."""
    transcripts = [_read(path) for path in sorted((DIRECTORY / kind).glob("*.txt"))]
    return [transcript for transcript in transcripts if transcript.sender == sender]


def _read(path: Path) -> Transcript:
    header, _, text = path.read_text("ascii").partition("\n\n")
    pairs = [line.split(": ", 1) for line in header.splitlines()]
    one = dict(pairs)
    data, cuts = _expand(text.replace("\n", ""))
    transcript = Transcript(path.stem, one["from"], data, cuts)
    for key, value in pairs:
        if key == "request":
            method, target, body = [*value.split(" ", 2), ""][:3]
            request = (method.encode(), target.encode(), _unescape(body))
            transcript.requests.append(request)
    if "refused" in one:
        transcript.refused = int(one["refused"])
    if "response" in one:
        status, _, body = one["response"].partition(" ")
        transcript.response = int(status), _unescape(body)
    transcript.held = one.get("held") == "yes"
    transcript.method = one.get("method", "POST").encode()
    transcript.ends = one.get("ends") == "yes"
    transcript.reusable = one.get("reusable") == "yes"
    transcript.failed = one.get("failed")
    return transcript


def _expand(text: str) -> tuple[bytes, list[int]]:
    data = bytearray()
    cuts: set[int] = set()
    for index, part in enumerate(re.split(r"(<<\d+\*.*?>>)", text)):
        start = len(data)
        run = _RUN.fullmatch(part) if index % 2 else None
        data += _unescape(run[2]) * int(run[1]) if run else _unescape(part)
        near = _NEAR_BYTES if run else len(data)
        cuts.update(range(start, min(start + near, len(data))))
        cuts.update(range(max(start, len(data) - near), len(data)))
    return bytes(data), sorted(cuts)


def _unescape(text: str) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return bytes.fromhex(escape[1:].decode()) if len(escape) > 1 else _SIMPLE_ESCAPES[escape]

    return _ESCAPE.sub(replace, text.encode())

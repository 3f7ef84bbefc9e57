"""Replays every transcript through the parsers: whole, byte by byte, and cut at every offset."""

from __future__ import annotations

from collections.abc import Iterable

import httptools
import pytest

from proxy_actors.errors import FailedError, RefusedError
from proxy_actors.protocol.http1_request import HttpLimits, RequestParser
from proxy_actors.protocol.http1_response import ResponseParser

from .transcript import DIRECTORY, Transcript, load

LIMITS = HttpLimits()
FROM_CLIENTS = load("valid", "client") + load("invalid", "client")
FROM_UPSTREAMS = load("valid", "upstream") + load("invalid", "upstream")

Served = tuple[list[tuple[bytes, bytes, bytes]], int | None, bool]
Answered = tuple[tuple[int, bytes] | None, bool, bool, str | None]


def serve(pieces: Iterable[bytes]) -> Served:
    """Feed a request parser; return the requests, the status that refused, whether it holds part.

    Takes after each piece, as a server that reads only when nothing is queued.
    """
    parser = RequestParser(LIMITS)
    requests = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (request := parser.take()) is not None:
                requests.append((request.head.method, request.head.target, request.body))
        except RefusedError as error:
            assert error.close
            return requests, error.status, parser.mid_message
    return requests, None, parser.mid_message


def answer(transcript: Transcript, pieces: Iterable[bytes], *, ends: bool) -> Answered:
    """Feed a response parser; return status and body, completeness, reusability, and failure."""
    parser = ResponseParser(LIMITS, transcript.method)
    body = b""
    failed = None
    try:
        for piece in pieces:
            parser.feed(piece)
            body += parser.take_body()
        if ends:
            parser.end_of_input()
    except FailedError as error:
        failed = error.reason.value
        body += parser.take_body()
    head = None if parser.head is None else (parser.head.status, body)
    assert parser.body_bytes == len(body)
    return head, parser.complete, parser.reusable, failed


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def expected_of(transcript: Transcript) -> Served:
    return transcript.requests, transcript.refused, transcript.held


def expected_answer(transcript: Transcript) -> Answered:
    complete = transcript.failed is None
    return transcript.response, complete, transcript.reusable, transcript.failed


@pytest.mark.parametrize("transcript", FROM_CLIENTS, ids=lambda transcript: transcript.name)
class TestFromClients:
    """HTTP-H1 to HTTP-H21: what clients may send, and what each breach is answered with."""

    def test_whole(self, transcript: Transcript) -> None:
        assert serve([transcript.data]) == expected_of(transcript)

    def test_byte_by_byte(self, transcript: Transcript) -> None:
        assert serve(byte_by_byte(transcript.data)) == expected_of(transcript)

    def test_in_two_pieces_cut_anywhere(self, transcript: Transcript) -> None:
        for cut in transcript.cuts:
            pieces = [transcript.data[:cut], transcript.data[cut:]]
            assert serve(pieces) == expected_of(transcript), f"cut at {cut}"

    def test_truncated_anywhere_yields_nothing_else(self, transcript: Transcript) -> None:
        """A cut transcript never produces a request, or a status, that the whole one does not."""
        for cut in transcript.cuts:
            requests, refused, _ = serve([transcript.data[:cut]])
            assert requests == transcript.requests[: len(requests)], f"cut at {cut}"
            assert refused in (None, transcript.refused), f"cut at {cut}"


@pytest.mark.parametrize("transcript", FROM_UPSTREAMS, ids=lambda transcript: transcript.name)
class TestFromUpstreams:
    """HTTP-F7 and the client's side of HTTP-H1 to HTTP-H13."""

    def test_whole(self, transcript: Transcript) -> None:
        answered = answer(transcript, [transcript.data], ends=transcript.ends)
        assert answered == expected_answer(transcript)

    def test_byte_by_byte(self, transcript: Transcript) -> None:
        answered = answer(transcript, byte_by_byte(transcript.data), ends=transcript.ends)
        assert answered == expected_answer(transcript)

    def test_in_two_pieces_cut_anywhere(self, transcript: Transcript) -> None:
        for cut in transcript.cuts:
            pieces = [transcript.data[:cut], transcript.data[cut:]]
            answered = answer(transcript, pieces, ends=transcript.ends)
            assert answered == expected_answer(transcript), f"cut at {cut}"

    def test_truncated_anywhere_is_never_taken_for_complete(self, transcript: Transcript) -> None:
        """HTTP-F7: an upstream that closes early fails, unless closing is what ends the body."""
        until_close = transcript.failed is None and transcript.ends
        for cut in transcript.cuts:
            answered, complete, _, failed = answer(transcript, [transcript.data[:cut]], ends=True)
            assert complete != bool(failed)
            if answered is None or not complete:
                continue
            assert transcript.response is not None
            if until_close:
                assert transcript.response[1].startswith(answered[1]), f"cut at {cut}"
            else:
                assert answered == transcript.response, f"cut at {cut}"


def test_every_parsing_rule_has_a_transcript() -> None:
    """HTTP-H1 to H21 and the HTTP-F rules on parsing; tests/style looks for the other F rules."""
    texts = [path.read_text() for path in DIRECTORY.glob("*/*.txt")]
    rules = {text.partition("\n")[0].removeprefix("rule: ") for text in texts}
    on_parsing = [f"HTTP-H{number}" for number in range(1, 22)]
    assert rules >= {*on_parsing, "HTTP-F1", "HTTP-F3", "HTTP-F6", "HTTP-F7", "HTTP-F8"}


# RELIABILITY 1.11: what httptools does not do, and the transcripts that show that we do.
LET_THROUGH = [
    "version-0-9", "version-0-9-simple", "version-2-0", "no-host", "two-hosts", "te-of-old-client",
    "te-gzip-chunked", "two-empty-lines-before", "chunk-extension-endless", "field-endless",
]  # fmt: skip
LEFT_TO_US = {
    "trailers come as fields": ["trailers", "trailer-is-a-request", "trailers-together"],
    "a field in small pieces is kept without bound": ["field-endless", "head-too-large"],
    "pipelined messages of one feed come at once": ["pipelined", "refused-behind-a-request"],
    "Upgrade raises in mid-feed": ["upgrade-ignored", "upstream-switches"],
    "CONNECT raises in mid-feed": ["connect"],
    "the end of input cannot be told": ["upstream-until-close", "upstream-truncated-length"],
    "HEAD has no body": ["upstream-head"],
    "keep-alive is right in callbacks only": ["close-wins", "upstream-old-keep-alive"],
}


@pytest.mark.parametrize("gap", LEFT_TO_US)
def test_gap_of_the_parser_has_a_transcript(gap: str) -> None:
    names = {transcript.name for transcript in FROM_CLIENTS + FROM_UPSTREAMS}
    assert names.issuperset(LEFT_TO_US[gap])


class _Took:
    """What httptools makes of a transcript."""

    def __init__(self) -> None:
        self.requests = 0

    def on_message_complete(self) -> None:
        self.requests += 1


@pytest.mark.parametrize("name", LET_THROUGH)
def test_what_httptools_lets_through_is_refused_here(name: str) -> None:
    """When it does so no more, the check on our side has become a second one."""
    (transcript,) = (one for one in load("invalid", "client") if one.name == name)
    took = _Took()
    parser = httptools.HttpRequestParser(took)
    try:
        parser.feed_data(transcript.data)
    except httptools.HttpParserError:
        assert took.requests, "it has refused what follows, and not before"
    assert transcript.refused in (400, 431, 501, 505)

"""Defects planted in both HTTP/1.1 parsers, each of which some transcript must find.

Checks that httptools makes as well, and would make alone, are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy_actors.protocol import http1_request, http1_response
from proxy_actors.protocol.http1_framing import ChunkedBody, HeadReader
from proxy_actors.protocol.http1_request import RequestParser
from proxy_actors.protocol.http1_response import ResponseParser
from tests.defects import Defect, planted

from .test_transcripts import (
    FROM_CLIENTS,
    FROM_UPSTREAMS,
    answer,
    byte_by_byte,
    expected_answer,
    expected_of,
    serve,
)
from .transcript import Transcript

# Long ones are replayed whole alone.
BYTE_BY_BYTE_MAX = 1000

DEFECTS = [
    # What clients send.
    Defect("any number of empty lines", RequestParser, "_read_head",
           "not self._blank_line_skipped and", ""),
    Defect("no empty line", RequestParser, "_read_head",
           r'buffer.startswith(b"\r\n")', "False"),
    Defect("what follows close is served", RequestParser, "_read_body",
           "not head.keep_alive", "False"),
    Defect("no Host", http1_request, "_read_head", "version == (1, 1):", "False:"),
    Defect("any Host", http1_request, "_check_authority", "is None", "is False"),
    Defect("old clients persist", http1_request, "_read_head", "version == (1, 1) and", ""),
    Defect("close does not count", http1_request, "_read_head",
           'b"close" not in', 'b"closed" not in'),
    Defect("any method", http1_request, "_read_request_line", "method not in _METHODS", "False"),
    Defect("CONNECT", http1_request, "_read_request_line", 'method == b"CONNECT"', "False"),
    Defect("other versions are malformed", http1_request, "_read_request_line",
           "_OTHER_VERSION.fullmatch(version_text)", "False"),
    Defect("any escape", http1_request, "_split_target", "or _BAD_ESCAPE.search(target)", ""),
    Defect("OPTIONS alone may ask for all", http1_request, "_split_target",
           'and method == b"OPTIONS"', ""),
    Defect("an old client's coding", http1_request, "_is_chunked", "version == (1, 0)", "False"),
    Defect("any length of body", http1_request, "_content_length",
           "int(value) > limits.body_bytes_max", "False"),
    Defect("a coded body", http1_request, "_check_content_encoding",
           'coding != b"identity"', "False"),
    Defect("any expectation", http1_request, "_expects_continue",
           'expectation != b"100-continue"', "False"),
    # Heads.
    Defect("LF ends a line", HeadReader, "_scan_unfinished",
           r'buffer.count(b"\n", self._scanned, end) != pairs', "False"),
    Defect("a CR cut off is refused", HeadReader, "_scan_unfinished",
           r' - buffer.endswith(b"\r")', ""),
    Defect("an endless head", HeadReader, "_scan_unfinished",
           "len(buffer) >= self._limits.head_bytes_max", "False"),
    Defect("a long head", HeadReader, "take", "end > limits.head_bytes_max", "False"),
    Defect("a long field", HeadReader, "take", "longest > limits.field_bytes_max", "False"),
    Defect("a long start line", HeadReader, "_check_start_line",
           "len(buffer) > bytes_max", "False"),
    Defect("a long method is a long target", HeadReader, "_check_start_line", "else 501",
           "else 414"),
    Defect("the end of a head is looked for in new bytes", HeadReader, "take",
           "self._scanned - 3", "self._scanned"),
    Defect("many fields", http1_request, "read_fields",
           "len(fields) > fields_max", "False"),
    Defect("Upgrade is an error", http1_request, "read_fields",
           "except HttpParserUpgrade:", "except ZeroDivisionError:"),
    Defect("any coding before chunked", http1_request, "ends_in_chunked",
           'codings == (b"chunked",)', 'codings[-1:] == (b"chunked",)'),
    Defect("unknown codings are malformed", http1_request, "ends_in_chunked",
           "FramingError(501", "FramingError(400"),
    # Chunks.
    Defect("chunks end anyhow", ChunkedBody, "_skip_data_end",
           r'not b"\r\n".startswith(end)', "False"),
    Defect("an endless size line", ChunkedBody, "_read_size",
           "len(buffer) - at > _CHUNK_SIZE_DIGITS_MAX + extension_left + 2", "False"),
    Defect("many extensions", ChunkedBody, "_read_size",
           "self._extension_bytes += len(extension)", "pass"),
    Defect("any size of all chunks", ChunkedBody, "_read_size",
           "self.body_bytes > self._body_bytes_max", "False"),
    Defect("sizes are decimal", ChunkedBody, "_read_size", "int(digits, 16)",
           'int(digits, 16 if digits.strip(b"0123456789") else 10)'),
    Defect("any trailer", ChunkedBody, "_skip_trailer", "is None", "is False"),
    Defect("large trailers", ChunkedBody, "_skip_trailer",
           "self._trailer_bytes + waiting > self._limits.head_bytes_max", "False"),
    Defect("many trailers", ChunkedBody, "_skip_trailer",
           "self._trailers > self._limits.fields_max + 1", "False"),
    Defect("trailers are the next message", ChunkedBody, "_read_size",
           "self._in_trailers = not size", "self._in_trailers = self.complete = not size"),
    # What upstreams send.
    Defect("HEAD has a body", ResponseParser, "_expect_body",
           'self._request_method == b"HEAD" or', ""),
    Defect("304 has a body", ResponseParser, "_expect_body", "_BODILESS", "(204,)"),
    Defect("204 has a body", ResponseParser, "_expect_body", "_BODILESS", "(304,)"),
    Defect("a whole answer to HEAD has a body", ResponseParser, "_is_whole",
           'or self._request_method == b"HEAD"', ""),
    Defect("a whole 304 has a body", ResponseParser, "_is_whole", "_BODILESS", "(204,)"),
    Defect("a whole interim response is the answer", ResponseParser, "_is_whole",
           "or head.status < 200", ""),
    Defect("a whole answer may have more behind it", ResponseParser, "_is_whole",
           "head.content_length != len(data) - end",
           "head.content_length is None or head.content_length > len(data) - end"),
    Defect("endless interim responses", ResponseParser, "_read_heads",
           "self._interims > INTERIM_RESPONSES_MAX", "False"),
    Defect("101 is like any other", ResponseParser, "_read_heads", "head.status == 101 or", ""),
    Defect("an interim response is the answer", ResponseParser, "_read_heads",
           "head.status >= 200", "head.status >= 100"),
    Defect("bytes behind the body are of no harm", ResponseParser, "_read_body",
           "if self.complete and self._buffer:", "if False:"),
    Defect("later bytes are of no harm", ResponseParser, "feed", "self._spent = True", "pass"),
    Defect("half a chunked body is whole", ResponseParser, "end_of_input",
           "self._chunks is not None or", ""),
    Defect("half a body is whole", ResponseParser, "end_of_input",
           " or self._left is not None", ""),
    Defect("half a head is an answer", ResponseParser, "end_of_input",
           "self.head is None or", ""),
    Defect("old upstreams persist", http1_response, "_read_head",
           '(is_1_1 or b"keep-alive" in options)', "True"),
    Defect("old upstreams never persist", http1_response, "_read_head",
           '(is_1_1 or b"keep-alive" in options)', "is_1_1"),
    Defect("204 with a body is reusable", http1_response, "_read_head",
           "keep_alive = False", "pass"),
    Defect("an old upstream's coding", http1_response, "_is_chunked", "not is_1_1", "False"),
    Defect("thousands of digits", http1_response, "_content_length",
           "or len(value) > CONTENT_LENGTH_DIGITS_MAX", ""),
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Heads that one parser has accepted are not to be accepted by the next for that."""
    forget()
    yield
    forget()


def forget() -> None:
    for module, name in (
        (http1_request, "_read_request_line"),
        (http1_request, "_check_authority"),
        (http1_response, "_read_head"),
    ):
        vars(module)[name].cache_clear()


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(errs(transcript) for transcript in FROM_CLIENTS + FROM_UPSTREAMS)


def errs(transcript: Transcript) -> bool:
    ways = [[transcript.data]]
    if len(transcript.data) <= BYTE_BY_BYTE_MAX:
        ways.append(byte_by_byte(transcript.data))
    return any(is_misread(transcript, pieces) for pieces in ways)


def is_misread(transcript: Transcript, pieces: list[bytes]) -> bool:
    try:
        if transcript.sender == "client":
            return serve(pieces) != expected_of(transcript)
        answered = answer(transcript, pieces, ends=transcript.ends)
        return answered != expected_answer(transcript)
    except Exception:
        return True

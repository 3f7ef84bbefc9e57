"""Lines of a pipe: cut at every offset, bounded, and written one message each."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors.errors import FrameTooLargeError
from proxy_actors.protocol import stdio_framing
from proxy_actors.protocol.jsonrpc import Message, admit
from proxy_actors.protocol.stdio_framing import LineDecoder, encode_frame
from tests.defects import Defect, planted
from tests.protocol.metered import metered

BYTES_MAX = 20

OUTPUTS: dict[str, tuple[bytes, list[bytes]]] = {
    "lines": (b"a\nbc\nd\n", [b"a", b"bc", b"d"]),
    "CRLF": (b"a\r\nbc\r\n", [b"a", b"bc"]),
    "mixed": (b"a\nb\r\nc\n", [b"a", b"b", b"c"]),
    "blank lines": (b"\n\r\na\n\n", [b"", b"", b"a", b""]),
    "one CR of an end, not two": (b"a\r\r\n\r\r\n", [b"a\r", b"\r"]),
    "a CR alone ends nothing": (b"a\rb\n\rc\n", [b"a\rb", b"\rc"]),
    "LF CR": (b"a\n\rb\n", [b"a", b"\rb"]),
    "other ends of a line are none": (
        b"a\x0bb\x0cc\x1cd\n\xc2\x85\xe2\x80\xa8\n", [b"a\x0bb\x0cc\x1cd", b"\xc2\x85\xe2\x80\xa8"],
    ),
    "NUL": (b"\0\na\0b\n\0\0\n", [b"\0", b"a\0b", b"\0\0"]),
    "white space stays": (b" a\t\n \n", [b" a\t", b" "]),
    "no UTF-8": (b"\xff\xfe\n\xc3\n", [b"\xff\xfe", b"\xc3"]),
    "byte order mark": (b"\xef\xbb\xbf{}\n", [b"\xef\xbb\xbf{}"]),
    "half a line": (b"a\nb", [b"a"]),
    "half a line and CR": (b"a\nb\r", [b"a"]),
    "nothing": (b"", []),
    "as long as may be": (b"x" * 20 + b"\n" + b"y" * 20 + b"\r\nz\n",
                          [b"x" * 20, b"y" * 20, b"z"]),
}  # fmt: skip

# Too long: what is returned before.
TOO_LONG: dict[str, tuple[bytes, list[bytes]]] = {
    "by one": (b"a\n" + b"x" * 21 + b"\nb\n", [b"a"]),
    "by one before CRLF": (b"a\n" + b"x" * 21 + b"\r\nb\n", [b"a"]),
    "by a CR that is none of the end": (b"a\n" + b"x" * 20 + b"\r\r\nb\n", [b"a"]),
    "by a CR within": (b"a\n" + b"x" * 20 + b"\rb\n", [b"a"]),
    "without an end": (b"a\nb\n" + b"x" * 21, [b"a", b"b"]),
    "without an end, far": (b"a\n" + b"x" * 200, [b"a"]),
    "NULs": (b"\0" * 21, []),
}  # fmt: skip


def fed(pieces: Iterable[bytes], bytes_max: int = BYTES_MAX) -> tuple[list[bytes], bool]:
    decoder = LineDecoder(bytes_max)
    lines: list[bytes] = []
    for piece in pieces:
        if not decoder.overflowed:
            lines += decoder.feed(piece)
    return lines, decoder.overflowed


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cuts(data: bytes) -> list[list[bytes]]:
    """Return the data whole, byte by byte, and in three pieces cut anywhere."""
    ways = [[data], byte_by_byte(data)]
    for first in range(len(data) + 1):
        for second in (first, first + 1, first + 2):
            ways.append([data[:first], data[first:second], data[second:]])
    return ways


@pytest.mark.parametrize("name", OUTPUTS)
def test_one_line_is_one_frame(name: str) -> None:
    """PROTOCOL section 7; FLT-U7, FLT-U12: half a line is none, whatever is in it."""
    data, lines = OUTPUTS[name]
    for pieces in cuts(data):
        assert fed(pieces) == (lines, False), pieces


@pytest.mark.parametrize("name", TOO_LONG)
def test_line_too_long_ends_the_reading_behind_the_lines_before_it(name: str) -> None:
    """FLT-U7: an answer that came before it in the same read is not lost."""
    data, lines = TOO_LONG[name]
    for pieces in cuts(data):
        assert fed(pieces) == (lines, True), pieces


def test_line_too_long_is_noticed_before_it_ends() -> None:
    """FLT-U7: 200 MB without a line end are not waited for."""
    decoder = LineDecoder(BYTES_MAX)
    decoder.feed(b"x" * BYTES_MAX + b"\r")
    assert not decoder.overflowed, "it may be half of the end"
    assert decoder.feed(b"x") == []
    assert decoder.overflowed
    with pytest.raises(FrameTooLargeError):
        decoder.feed(b"\na\n")


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"bcd", b"\0"])), st.integers(0, 6))
def test_lines_do_not_depend_on_the_reads(parts: list[bytes], bytes_max: int) -> None:
    assert fed(parts, bytes_max) == fed([b"".join(parts)], bytes_max)


LONG_LINE = byte_by_byte(b"x" * 20_000 + b"\n")


def test_work_is_linear_however_small_the_reads() -> None:
    """MCP-I-9: each byte is put away once and taken out once."""
    with metered(stdio_framing) as meter:
        lines, _ = fed(LONG_LINE, 1 << 20)
    assert len(lines) == 1
    assert len(LONG_LINE) <= meter.bytes_moved <= 4 * len(LONG_LINE)


def test_quadratic_work_is_noticed() -> None:
    defect = Defect("a copy for each read", LineDecoder, "feed",
                    "self._partial += rest", "self._partial = self._partial + rest")  # fmt: skip
    with planted(defect), metered(stdio_framing) as meter:
        fed(LONG_LINE, 1 << 20)
    assert meter.bytes_moved > 100 * len(LONG_LINE)


@pytest.mark.parametrize(
    "defect",
    [
        Defect("two CRs go", LineDecoder, "feed", r'removesuffix(b"\r")', r'rstrip(b"\r")'),
        Defect("CR stays", LineDecoder, "feed", r'.removesuffix(b"\r")', ""),
        Defect("a CR counts", LineDecoder, "_fits", r'- line.endswith(b"\r") ', ""),
        Defect("the bound is one off", LineDecoder, "_fits", "<=", "<"),
        Defect("only whole lines are bounded", LineDecoder, "feed",
               "not self._fits(self._partial)", "False"),
        Defect("only half lines are bounded", LineDecoder, "feed",
               "not self._fits(line)", "False"),
        Defect("blank lines go", LineDecoder, "feed",
               "for line in lines:", "for line in filter(None, lines):"),
        Defect("the rest is of two lines", LineDecoder, "feed",
               "self._partial = bytearray()", "pass"),
        Defect("an overflow loses the lines before", LineDecoder, "_overflow",
               "return complete", "return []"),
    ],
    ids=str,
)  # fmt: skip
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(
            fed(pieces) != (lines, overflowed)
            for outputs, overflowed in ((OUTPUTS, False), (TOO_LONG, True))
            for data, lines in outputs.values()
            for pieces in cuts(data)
        )


# What is written.


def test_frame_is_the_message_and_a_line_feed() -> None:
    """MCP-I-1."""
    assert encode_frame(b'{"a":"\\n"}') == b'{"a":"\\n"}\n'


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("place", [b"%b{}", b"{%b}", b"{}%b"])
def test_frame_holds_no_line_end(place: bytes, end: bytes) -> None:
    """THR-T21, MCP-I-1: what did not go through admission is not written."""
    with pytest.raises(ValueError):
        encode_frame(place % end)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_child_sees_one_message_where_two_were_sent_as_one(end: bytes) -> None:
    """THR-T21: as the child's own reader of lines splits them, be its newlines universal or not."""
    hidden = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"delete_all"}}'
    sent = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"x":%b}}}'
    message = admit(sent % (end + hidden + end))
    assert isinstance(message, Message)
    frame = encode_frame(message.raw)
    assert len(frame.splitlines()) == 1
    assert fed([frame], 1000) == ([message.raw], False)

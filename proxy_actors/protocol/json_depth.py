"""How deep the arrays and objects of a JSON text nest, told by searches and not bracket by bracket.

Owns the bound on depth alone: that the text is JSON its caller knows. A step of an interpreter for
each bracket would hold the loop for a quarter of a second over four megabytes of them.
"""

from __future__ import annotations

from typing import Final

# One bracket in so many begins an innermost pair, or such pairs are not worth a pass of their own.
_LEAF_EVERY: Final = 24

_TO_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))


def may_be_deeper(document: bytes, depth_max: int) -> bool:
    """Whether there are brackets enough to nest deeper than `depth_max`; a level has two."""
    return (
        len(document) > 2 * depth_max
        and document.count(b"[") + document.count(b"{") > depth_max
    )


def is_deeper(document: bytes, depth_max: int) -> bool:
    """Whether brackets outside of strings nest deeper than `depth_max`, from 1."""
    if not may_be_deeper(document, depth_max):
        return False
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = document.translate(_TO_BRACKETS, _NO_STRUCTURE)
    # Two neighbouring quotes change nothing of what is within a string: most go at once.
    return nests_deeper(b"".join(marks.replace(b'""', b"").split(b'"')[::2]), depth_max)


def nests_deeper(brackets: bytes, depth_max: int) -> bool:
    """Whether balanced brackets, and nothing else, nest deeper than `depth_max`.

    Without its innermost pairs a text is one level less deep. Each pass that takes them away makes
    it shorter by a share, so that all passes together cost what a number of readings does. What has
    few such pairs has long slopes between them: only so many are walked over.
    """
    while brackets and brackets.count(b"[]") * _LEAF_EVERY >= len(brackets):
        if not depth_max:
            return True
        brackets = brackets.replace(b"[]", b"")
        depth_max -= 1
    depth = deepest = 0
    for slope in brackets.replace(b"][", b"] [").split():
        up = slope.find(b"]")
        deepest = max(deepest, depth + up)
        depth += 2 * up - len(slope)
    return deepest > depth_max

"""`proxy-actors key new`: THR-T5."""

from __future__ import annotations

import hashlib
import tomllib

import pytest

from proxy_actors.__main__ import main
from proxy_actors.control.key import RANDOM_BYTES, new_key


def test_key_is_printed_once_with_its_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "--id", "ann"]) == 0
    first, _, rest = capsys.readouterr().out.partition("\n\n")
    key = first.split()[1]
    (row,) = tomllib.loads(rest)["keys"]
    assert row == {"id": "ann", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    assert key not in rest


def test_keys_cannot_be_guessed() -> None:
    assert RANDOM_BYTES * 8 >= 128
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize("arguments", [["key"], ["key", "old"], ["key", "new", "--id", "A b"]])
def test_wrong_usage_says_what_is_right(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "proxy-actors key" in capsys.readouterr().err

"""Plays scenarios one after another and tells what has become of each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from chaos import (
    answer_rows,
    client_rows,
    endpoint_rows,
    http_rows,
    link_rows,
    machine_rows,
    process_rows,
    request_rows,
    stdio_rows,
)
from chaos.scorecard import NOT_PLAYED, ROWS, SCENARIOS, Play
from chaos.stage import NotHere, Stage, Unmet

S = TypeVar("S", bound=Stage)

PASSED, FAILED, NOT_RUN = "pass", "FAIL", "not run"
# Importing them enters their scenarios.
MODULES = (
    stdio_rows, http_rows, link_rows, endpoint_rows, answer_rows, client_rows, request_rows,
    process_rows, machine_rows,
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What has become of a row.

    Attributes:
        told: what is wrong, or why it was not run.
    """

    id: str
    result: str
    took_s: float = 0.0
    told: tuple[str, ...] = ()
    figures: dict[str, object] = field(default_factory=dict)


def play(id: str, seed: int, leniency: float = 1.0) -> Verdict:
    """Play one row; `leniency` multiplies the bounds on times."""
    scenario = SCENARIOS.get(id)
    if scenario is None:
        return Verdict(id, NOT_RUN, told=(NOT_PLAYED[id],))
    play = scenario.play
    return judge(id, Stage(id, seed, leniency), lambda stage: play_once(stage, play))


def play_once(stage: Stage, play: Play) -> list[str]:
    """Play a scenario and have the oracle look; return what is wrong."""
    told: list[str] = []
    try:
        play(stage)
    except Unmet as unmet:
        told.append(str(unmet))
    return told + stage.settle()


def judge(id: str, stage: S, act: Callable[[S], list[str]]) -> Verdict:
    """Have something done on a stage that returns what is wrong; close the stage."""
    began_s = time.monotonic()
    told: list[str] = []
    try:
        with stage:
            told += act(stage)
    except NotHere as why:
        return Verdict(id, NOT_RUN, time.monotonic() - began_s, (str(why),), stage.figures)
    except Exception as error:  # of the scenario, or of a proxy that did not end as it should
        first = error.__context__ or error
        told.append(f"{type(first).__name__}: {_essence(first)}" + _place(first))
        if first is not error:
            told.append(f"{type(error).__name__}: {_essence(error)}")
    result = FAILED if told else PASSED
    return Verdict(id, result, time.monotonic() - began_s, tuple(told), stage.figures)


def play_all(
    ids: Iterable[str], seed: int, tell: Callable[[Verdict], None]
) -> list[Verdict]:
    """Play rows in the order of the scorecard; tell each verdict as it comes."""
    wanted = set(ids) or set(ROWS)
    verdicts = []
    for id in ROWS:
        if id in wanted:
            verdicts.append(play(id, seed))
            tell(verdicts[-1])
    return verdicts


def _essence(error: BaseException) -> str:
    """What an error says, from the first traceback in it on, if it is a whole log."""
    text = str(error)
    return text[max(0, text.find("Traceback")) :][:1500]


def _place(error: BaseException) -> str:
    frames = [x for x in traceback.extract_tb(error.__traceback__) if "chaos" in x.filename]
    return " ".join(f" {frame.name}:{frame.lineno}" for frame in frames)

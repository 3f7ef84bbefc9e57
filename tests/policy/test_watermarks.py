"""Two marks: what is between them changes nothing."""

from __future__ import annotations

import itertools

from proxy_actors.policy.watermarks import Watermark


def test_verdict_is_that_of_the_last_figure_beyond_a_mark() -> None:
    """Every sequence of six."""
    for figures in itertools.product((0.0, 1.9, 2.0, 2.9, 3.0, 9.0), repeat=6):
        mark, over = Watermark(3.0, 2.0), False
        for figure in figures:
            over = figure >= 3.0 or (over and figure >= 2.0)
            assert mark.see(figure) is mark.over is over, figures

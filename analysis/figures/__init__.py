"""Figures, each a function DataFrame → plotly Figure that answers the question in its title.

A figure with nothing to draw raises `NoDataError`, whose text says what is missing. `FIGURES` lists what
a report shows, in its order; a new figure is one function and one line.
"""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from analysis.figures.contenders import final_scores, traffic
from analysis.figures.curves import score_by_bytes, score_by_round
from analysis.figures.institutions import gain, partition, timeline
from analysis.load import Tables

FIGURES: dict[str, Callable[[Tables], go.Figure]] = {
    "final-scores": lambda t: final_scores(t.summary),
    "score-by-round": lambda t: score_by_round(t.rounds),
    "score-by-bytes": lambda t: score_by_bytes(t.rounds),
    "traffic": lambda t: traffic(t.summary),
    "gain": lambda t: gain(t.participants, t.rounds),
    "partition": lambda t: partition(t.partition),
    "timeline": lambda t: timeline(t.participants, t.rounds),
}

__all__ = [
    "FIGURES",
    "final_scores",
    "gain",
    "partition",
    "score_by_bytes",
    "score_by_round",
    "timeline",
    "traffic",
]

"""Figures, each a function DataFrame → plotly Figure that answers the question in its title.

A figure with nothing to draw raises `NoDataError`, whose text says what is missing. `FIGURES` lists what
a report shows, by heading and in its order; a new figure is one function and one line.

Frames are those of `analysis.load`. Points carry the setting of their run in `customdata`, by which a
report's filter hides them; a trace whose `meta` is "all" is a sum over runs, which it hides as well.
"""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from analysis.figures.contenders import final_scores, pareto, traffic
from analysis.figures.curves import attack_success, score_by_bytes, score_by_round, score_by_time
from analysis.figures.hardening import (
    ablation,
    attacked_runs,
    membership,
    privacy,
    private_runs,
    robustness,
    troubled_runs,
    variants,
)
from analysis.figures.institutions import clock, equity, gain, partition, timeline
from analysis.figures.losses import losses
from analysis.figures.messages import anatomy, codec_stages, stages
from analysis.figures.resources import device_hours, memory
from analysis.figures.sweeps import bandwidth, heat_map, loss_weights, response, scaling
from analysis.load import Tables

Draw = Callable[[Tables], go.Figure]

HEADINGS: dict[str, dict[str, Draw]] = {
    "Scores": {
        "final-scores": lambda t: final_scores(t.summary),
        "score-by-round": lambda t: score_by_round(t.rounds),
        "score-by-bytes": lambda t: score_by_bytes(t.rounds),
        "score-by-time": lambda t: score_by_time(t.rounds),
        "pareto": lambda t: pareto(t.summary),
        "losses": lambda t: losses(t.rounds),
    },
    "Settings": {
        "response": lambda t: response(t.summary, t.settings),
        "heat-map": lambda t: heat_map(t.summary, t.settings),
        "bandwidth": lambda t: bandwidth(t.summary, t.settings),
        "loss-weights": lambda t: loss_weights(t.summary, t.settings),
        "ablation": lambda t: ablation(variants(t.summary, t.settings)),
        "privacy": lambda t: privacy(private_runs(t.summary, t.settings)),
        "membership": lambda t: membership(attacked_runs(t.attacks, t.settings)),
        "robustness": lambda t: robustness(troubled_runs(t.summary, t.settings)),
        "attack-success": lambda t: attack_success(t.rounds),
        "scaling": lambda t: scaling(t.summary, t.settings),
    },
    "Messages": {
        "traffic": lambda t: traffic(t.summary),
        "anatomy": lambda t: anatomy(t.sections, t.rounds),
        "codec-stages": lambda t: codec_stages(stages(t.measures, t.rounds)),
    },
    "Institutions": {
        "gain": lambda t: gain(t.participants, t.rounds),
        "equity": lambda t: equity(t.participants, t.rounds),
        "partition": lambda t: partition(t.partition),
    },
    "Time and memory": {
        "timeline": lambda t: timeline(t.participants, t.rounds),
        "clock": lambda t: clock(t.participants, t.rounds),
        "device-hours": lambda t: device_hours(t.participants, t.rounds),
        "memory": lambda t: memory(t.rounds),
    },
}

FIGURES: dict[str, Draw] = {key: draw for figures in HEADINGS.values() for key, draw in figures.items()}

__all__ = [
    "FIGURES",
    "HEADINGS",
    "ablation",
    "anatomy",
    "attack_success",
    "attacked_runs",
    "bandwidth",
    "clock",
    "codec_stages",
    "device_hours",
    "equity",
    "final_scores",
    "gain",
    "heat_map",
    "loss_weights",
    "losses",
    "membership",
    "memory",
    "pareto",
    "partition",
    "privacy",
    "private_runs",
    "response",
    "robustness",
    "scaling",
    "score_by_bytes",
    "score_by_round",
    "score_by_time",
    "stages",
    "timeline",
    "traffic",
    "troubled_runs",
    "variants",
]

"""One look for every figure: the colours of Okabe and Ito, fixed per contender, on light and dark.

Colours, symbols and dashes always go together, so nothing is told by colour alone.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#858B94"

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

LIGHT = {
    "page": "#f7f6f3", "card": "#ffffff", "ink": "#1c2024", "soft": "#5d646c",
    "line": "#e4e2dc", "accent": "#005f95", "note": "#fbf3df",
}  # fmt: skip
DARK = {
    "page": "#101214", "card": "#181b1e", "ink": "#e9e8e4", "soft": "#a0a6ad",
    "line": "#2d3236", "accent": "#7cc4ee", "note": "#2a2515",
}  # fmt: skip

KNOWN: dict[str, tuple[str, str, str, str]] = {
    # algorithm: name, colour, symbol, what it is
    "federated_distillation": ("Federated distillation", BLUE, "circle", "the student, taught by knowledge"),
    "fedavg": ("FedAvg", VERMILLION, "square", "averages parameters"),
    "centralized": ("Centralised", GREY, "diamond", "upper bound: all private data in one place"),
    "solo": ("Solo", GREEN, "triangle-up", "institutions on their own"),
    "proxy_only": ("Proxy only", ORANGE, "cross", "the public proxy set alone"),
    "fedprox": ("FedProx", "", "", "averages parameters, held near the last average"),
    "ds_fl": ("DS-FL", "", "", "everybody learns the sharpened mean of all labels"),
    "fedmd": ("FedMD", "", "", "everybody learns the mean of all labels; no global model"),
}
"""Algorithms by their usual names; the first have a colour of their own, for the others one is found."""

PARTS = {"best": "the best institution", "mean": "mean of the institutions"}
"""What stands for a contender without a student in a summary: `<label>_best`, `<label>_mean`."""

_SPARE = [("solid", PURPLE), ("solid", SKY)]
_SPARE += list(product(("dash", "dot"), (PURPLE, SKY, BLUE, VERMILLION, GREEN, ORANGE)))
_SYMBOLS = ("star", "hexagon", "x", "pentagon", "triangle-down", "bowtie")
_REFERENCES = ("centralized", "solo", "proxy_only")


@dataclass(frozen=True)
class Look:
    """How a contender is called and drawn, everywhere."""

    plain: str
    """Its name as it is; `name` is the same for plotly."""
    colour: str
    symbol: str
    dash: str
    about: str

    @property
    def name(self) -> str:
        return label(self.plain)


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """A look for each contender of a summary, or each method of the rounds, in order of appearance.

    frame: `contender` or `method`; `algorithm` (absent: it is the name) and `student`. Both rows of a
    contender without a student (`solo_best`, `solo_mean`) look like the method itself. The first contender
    of a known algorithm has that algorithm's colour; a second one, and every algorithm without a
    colour in KNOWN, takes the next spare pair of colour and dash.
    """
    names = frame["contender"] if "contender" in frame else frame["method"]
    algorithms = frame.get("algorithm", names)
    students = frame["student"] if "student" in frame and "contender" in frame else [True] * len(frame)
    chosen: dict[str, Look] = {}
    owners: dict[str, str] = {}
    drawn: dict[str, tuple[str, str, str]] = {}
    for name, algorithm, student in dict.fromkeys(
        zip(map(str, names), map(str, algorithms), students, strict=True)
    ):
        owner, part = (name, "") if student else split(name)
        pretty, about = algorithm, ""
        if algorithm in KNOWN:
            pretty, own, mark, about = KNOWN[algorithm]
        if owner not in drawn:
            if algorithm in KNOWN and own and owners.setdefault(algorithm, owner) == owner:
                drawn[owner] = own, mark, "solid"
            else:
                spare = len(drawn) - len(owners)
                dash, colour = _SPARE[spare % len(_SPARE)]
                drawn[owner] = colour, _SYMBOLS[spare % len(_SYMBOLS)], dash
        colour, symbol, dash = drawn[owner]
        pretty = pretty if owner == algorithm else owner
        if part:
            pretty, about = f"{pretty}, {part}", PARTS[part]
        chosen[name] = Look(pretty, colour, symbol, dash, about)
    return chosen


def split(contender: str) -> tuple[str, str]:
    """`solo_best` → (`solo`, `best`): one of the two rows of a contender without a student."""
    owner, _, part = contender.rpartition("_")
    return (owner, part) if owner and part in PARTS else (contender, "")


def rank(contender: str, algorithm: str) -> tuple[int, str]:
    """Sorts contenders for a table: the methods, then what they are measured against."""
    place = _REFERENCES.index(algorithm) + 2 if algorithm in _REFERENCES else 1
    return (0 if algorithm == "federated_distillation" else place, contender)


def is_reference(algorithm: str) -> bool:
    """Whether it is a yardstick (nothing is sent) rather than a federated method."""
    return algorithm in _REFERENCES


def faint(colour: str) -> str:
    """The colour as a veil, for bands; it works on light and dark."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def label(text: str, limit: int = 40) -> str:
    """Text from data, harmless in plotly, whose labels are a small HTML."""
    text = " ".join(text.split())
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)


def template(theme: dict[str, str]) -> dict[str, Any]:
    """The plotly template of a theme. Its text is ours; no default template lies beneath."""
    axis = {
        "gridcolor": theme["line"],
        "linecolor": theme["line"],
        "zerolinecolor": theme["line"],
        "tickfont": {"color": theme["soft"]},
        "title": {"font": {"color": theme["soft"], "size": 13}, "standoff": 10},
        "automargin": True,
        "ticklabelposition": "outside",
    }
    side = {k: v for k, v in axis.items() if k not in ("zerolinecolor", "automargin", "ticklabelposition")}
    side["title"] = {"font": {"color": theme["soft"], "size": 13}}
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": theme["ink"]},
            "paper_bgcolor": theme["card"],
            "plot_bgcolor": theme["card"],
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}},
            "xaxis": axis,
            "yaxis": axis,
            "colorway": [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY],
            "ternary": {"bgcolor": theme["card"], **dict.fromkeys(("aaxis", "baxis", "caxis"), side)},
            "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 12}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom",
                       "bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant"},
            "hoverlabel": {"bgcolor": theme["page"], "bordercolor": theme["line"], "align": "left",
                           "font": {"family": FONT, "size": 13, "color": theme["ink"]}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme["soft"], "activecolor": theme["accent"]},
            "margin": {"l": 8, "r": 16, "t": 56, "b": 8, "pad": 4},
        }
    }  # fmt: skip

"""What is measured of the student, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsim.config.base import Positive, Settings
from fedsim.config.data import Source


class Questions(Settings):
    """A task that nobody trained for: multiple-choice questions in JSON lines, see `evaluation.questions`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """What it is called in `measures.parquet`."""
    path: str
    """`question`, `choices` and `answer` in every line; relative paths start at the working directory."""
    shots: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 5)
    """Numbers of examples before a question; 0 is zero-shot. The largest number of items is set aside."""


class FewShot(Source):
    """Images: a labelled set of other classes, which the student's features are to tell apart by a few
    examples (`fedsim.evaluation.few_shot`)."""

    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5)
    """Numbers of examples of a class."""
    ways: Annotated[int, Field(ge=2)] = 5
    """Classes in an episode."""
    queries: Annotated[int, Field(ge=1)] = 15
    """Images of each class in an episode that are to be told apart."""
    episodes: Annotated[int, Field(ge=1)] = 200


class Evaluation(Settings):
    every: Annotated[int, Field(ge=1)] = 1
    """Evaluate the student every that many rounds, and in the last."""
    participants: Literal["last", "always", "never"] = "last"
    """When specialists are scored on the global test set, and they and the student on what the institutions
    keep to test themselves (`fedsim.evaluation.breakdown`)."""
    co2e_g_per_kwh: Positive | None = None
    """Grams of CO₂e for a kWh, of the grid, to have it counted where energy is; e.g. 250."""
    generate: Annotated[int, Field(ge=0)] = 0
    """Text: let the student continue that many prompts of the test set whenever it is evaluated, and measure
    ROUGE-L, BLEU and distinct-n (the extra `generation`); 0 measures nothing."""
    prompt: Annotated[int, Field(ge=1)] = 16
    """Tokens of a window that are its prompt there, where the data has no prompts of its own."""
    longest: Annotated[int, Field(ge=1)] = 48
    """Most tokens that are generated there, and for `instructions`."""
    tasks: tuple[Questions, ...] = ()
    """Text: what the student is asked after the last round."""
    few_shot: FewShot | None = None
    """Images, image–text: what the student's features are tried on after the last round."""
    instructions: str | None = None
    """Text: a file of JSON lines in the format of IFEval, whose instructions rules check after the last round
    (`fedsim.evaluation.instructions`)."""
    retrieval: Annotated[int, Field(ge=0)] = 0
    """Image–text: among that many pairs of the test set the student finds each image's text and each text's
    image after the last round (recall@k, `fedsim.evaluation.retrieval`); 0 measures nothing."""

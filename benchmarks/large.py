"""Bytes beside a model of 125M parameters and a vocabulary of 32,768: answers do not grow with the model.

A run of federated distillation as in `experiments/headline/text.yaml`, on its proxy set, with two
institutions and a tokenizer of 32,768 tokens; its messages are real. Beside them is what FedAvg would send of
`opt-125m` in as many rounds: every weight, or rank-8 adapters of every linear layer, counted on the meta
device, four bytes each. Small models know little of 32,768 tokens: their answers are flat, and dearer than
those of large ones. About ten minutes on two idle cores.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tokens import CLASSES, domains
from fedsim import loading, simulation
from fedsim.config import Adapter
from fedsim.executor import InProcess
from fedsim.sweeps import config as sweeps
from fedsim.types import Interface

if TYPE_CHECKING:
    import pandas as pd

HEADLINE = Path(__file__).parent.parent / "experiments" / "headline" / "text.yaml"
PRESET, RANK, ROUNDS = "opt-125m", 8, 2
FEWER_THAN_WEIGHTS, FEWER_THAN_ADAPTERS = 0.95, 0.60


def main() -> None:
    """Print bytes of one institution and round, up and down, and the share that is saved."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as name:
        messages = _messages(Path(name))
    weights, adapters = (4 * number for number in _sizes())
    print(f"\nMB of one institution and round, up + down; {CLASSES:,} tokens, {PRESET}")
    print(f"aims: {FEWER_THAN_WEIGHTS:.0%} fewer than weights, {FEWER_THAN_ADAPTERS:.0%} than adapters")
    print(f"{'':<24}{'up':>9}{'down':>9}{'of weights':>14}{'of adapters':>14}")
    for round, rows in messages.groupby("round"):
        ways = rows.groupby("direction")["bytes"].mean()
        up, down = ways["up"], ways.get("down", 0.0)  # nothing goes down in the first round, whatever travels
        saved = [1 - (up + down) / (len(ways) * other) for other in (weights, adapters)]
        fewer = "".join(f"{share:>8.1%} fewer" for share in saved)
        print(f"{f'answers, round {round}':<24}{up / 1e6:>9.3f}{down / 1e6:>9.3f}{fewer}")
    for what, size in (("weights, float32", weights), (f"adapters, rank {RANK}", adapters)):
        print(f"{what:<24}{size / 1e6:>9.3f}{size / 1e6:>9.3f}")
    print(f"{time.perf_counter() - began:.0f} s")


def _messages(folder: Path) -> pd.DataFrame:
    """The messages table of a run."""
    from fedsim.data.tokenizers import train

    (folder / "tokenizer").mkdir()
    texts = [text for domain in domains() for text in domain]
    (folder / "tokenizer" / "tokenizer.json").write_text(train(texts, CLASSES), encoding="utf-8")
    sweep = sweeps.load(HEADLINE)
    own = {
        "methods": sweep.set["methods"][:1],
        "data.tokenizer": str(folder / "tokenizer"),
        "participants.count": 2,
        "student.model": "pythia-tiny",
        "rounds": ROUNDS,
        "evaluation": {"every": ROUNDS, "participants": "never"},
        "output": str(folder / "run"),
    }
    return simulation.run(loading.load(sweep.base, **{**sweep.set, **own}), executor=InProcess()).messages


def _sizes() -> tuple[int, int]:
    """(weights, weights of adapters) of the preset with this vocabulary, tied ones once."""
    import torch

    from fedsim.models.adapters import adapted
    from fedsim.models.factory import build, size

    with torch.device("meta"):
        model = build(PRESET, Interface("text", CLASSES, 64), seed=0)
        whole = size(model)
        added = sum(p.numel() for p in adapted(model, Adapter(rank=RANK), 0).parameters() if p.requires_grad)
    return whole, added


if __name__ == "__main__":
    main()

"""Images with captions from end to end: what a run says its student scores, transformers measures too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim import loading, simulation
from fedsim.config import RunConfig
from fedsim.data import build, plan
from fedsim.executor import InProcess
from fedsim.types import Examples

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart_image_text.yaml"


def quickstart(folder: Path, **overrides: Any) -> RunConfig:
    """The quickstart's own file, with less to do."""
    return loading.load(
        QUICKSTART, output=str(folder / "run"), **{"runtime.parallel_methods": 1, **overrides}
    )


def scores(result: simulation.Result) -> dict[str, float]:
    """Each contender's accuracy after its last round."""
    return dict(result.rounds.sort_values("round").groupby("method").score.last())


def zero_shot(folder: Path, prompts: tuple[str, ...], test: Examples) -> float:
    """Accuracy of the exported student as anybody would use it: its processor, its model, plain prompts."""
    from transformers import AutoModel, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    pixels = test.arrays["pixel_values"]
    pictures = [Image.fromarray(p[0] if len(p) == 1 else p.transpose(1, 2, 0)) for p in pixels]
    inputs = processor(text=list(prompts), images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        chosen = model(**inputs).logits_per_image.argmax(1)
    return float(np.mean(chosen.numpy() == test.arrays["labels"]))


def test_the_student_of_the_quickstart_names_digits_zero_shot(tmp_path: Path):
    steps = {"participants.training.steps": 30, "student.training.steps": 50}
    config = quickstart(tmp_path, rounds=1, **steps, methods=["federated_distillation"])
    result = simulation.run(config, executor=InProcess())
    federation = build(plan(config))
    measured = zero_shot(Path(result.student), federation.prompts, federation.public.test)
    assert measured == pytest.approx(scores(result)["federated_distillation"])
    assert measured > 0.3  # a guess is right one time in ten


@pytest.mark.slow
def test_photographs_with_prompts(real_data: Path, tmp_path: Path):
    """CIFAR-10 through the loader of files, in grey and small, for minutes on two cores."""
    cifar = real_data / "cifar10"
    data = {
        "source": "files",
        "path": str(cifar / "train-00000-of-00005.parquet"),
        "modality": "image_text",
        "label_column": "label",
        "label_names": (cifar / "classes.txt").read_text().split(),
        "max_examples": 4000,
        "image_size": 16,
        "split": {"test": 0.1, "validation": 0.05, "proxy": 0.15},
    }
    methods = ["federated_distillation", "centralized", "solo"]
    config = quickstart(tmp_path, rounds=2, data=data, methods=methods)
    result = simulation.run(config, executor=InProcess())
    federation = build(plan(config))
    reached = scores(result)
    measured = zero_shot(Path(result.student), federation.prompts, federation.public.test)
    assert measured == pytest.approx(reached["federated_distillation"])
    assert measured > 0.2
    assert measured > reached["solo"]

"""Folders of models that don't fit the data are named before any actor starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsim import fitting, loading, simulation, sweeps
from fedsim.cli import main
from fedsim.data import build as build_data
from fedsim.errors import ConfigError
from fedsim.executor import InProcess
from fedsim.models.factory import build
from fedsim.types import Interface

TEXT = {"source": "stdlib", "max_examples": 120, "vocabulary": 300, "window": 16}
DATA: dict[str, dict[str, Any]] = {
    "text": {**TEXT, "split": {"test": 0.1, "validation": 0.1}},
    "image": {"source": "digits", "max_examples": 120},
    "image_text": {"source": "digits", "max_examples": 120, "modality": "image_text"},
}
PRESET = {"text": "llama-tiny", "image": "vit-micro", "image_text": "clip-micro"}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "patch_size": 4,
}  # fmt: skip
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1],
    "layer_type": "basic",
}  # fmt: skip


def tree(folder: Path, modality: str, **overrides: Any) -> dict[str, Any]:
    model = PRESET[modality]
    return {
        "output": str(folder / "run"),
        "data": DATA[modality],
        "participants": {"count": 2, "models": [model, model], "partition": {"minimum": 2}},
        "student": {"model": model},
        "methods": ["centralized", {"name": "central_distillation"}],
        **overrides,
    }


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    """`model(described, interface)`: a folder, with weights where an interface is given."""

    def make(described: Any, interface: Interface | None = None) -> str:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(described))
        if interface is not None:
            build(str(folder), interface, seed=0).save_pretrained(str(folder))  # type: ignore[operator]
        return str(folder)

    return make


FOLDERS = {
    "a text model for images": ("image", GPT2, "AutoModelForImageClassification knows.* it is gpt2"),
    "an encoder with a decoder": ("text", {"model_type": "t5"}, "AutoModelForCausalLM knows.* it is t5"),
    "an unknown type": ("text", {"model_type": "zzz"}, "AutoModelForCausalLM knows.* it is zzz"),
    "a small network for text": ("text", {"model_type": "mlp", "hidden_sizes": [8]}, "it is mlp"),
    "no dual encoder": ("image_text", VIT, "type clip .* it is vit"),
    "running statistics": ("image", RESNET, "GroupNorm"),
    "patches above the image": ("image", {**VIT, "patch_size": 16}, "at most 8"),
    "a width that is none": ("image", {**VIT, "hidden_size": "wide"}, "gives a model .*Error"),
    "a network without its shape": ("image", {"model_type": "cnn"}, "gives a model .*KeyError"),
    "no mapping": ("image", ["vit"], "a model_type"),
}


@pytest.mark.parametrize(("modality", "described", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_gives_no_model_is_named(
    modality: str, described: Any, said: str, model: Callable[..., str], tmp_path: Path
):
    folder = model(described)
    config = loading.load(tree(tmp_path, modality, student={"model": folder}))
    with pytest.raises(ConfigError, match=said) as caught:
        simulation.check(config)
    assert (caught.value.field, caught.value.value) == ("student.model", folder)
    assert "\n" not in str(caught.value)


WEIGHTS = {
    "labels": ("image", VIT, Interface("image", 7, 0, (1, 8, 8)), {}, "10 labels; it has 7"),
    "colours": ("image", VIT, Interface("image", 10, 0, (3, 8, 8)), {}, "reads this data"),
    "a larger vocabulary": ("text", GPT2, Interface("text", 400, 16), {}, "300 vocabulary.* it has 400"),
    "a short window": ("text", GPT2, Interface("text", 290, 64), {"window": 80}, "reads this data"),
}


@pytest.mark.parametrize(("modality", "described", "own", "data", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_named(
    modality: str,
    described: Any,
    own: Interface,
    data: dict[str, Any],
    said: str,
    model: Callable[..., str],
    tmp_path: Path,
):
    written = tree(tmp_path, modality, data={**DATA[modality], **data})
    written["participants"]["models"][1] = model(described, own)
    with pytest.raises(ConfigError, match=said) as caught:
        simulation.check(loading.load(written))
    assert caught.value.field == "participants.models.1"


def test_weights_that_cannot_be_read_are_one_line_and_status_2(
    model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = model(VIT)
    (Path(folder) / "model.safetensors").write_bytes(b"torn")
    written = tree(tmp_path, "image")
    written["methods"][1]["teacher"] = folder
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(written))
    for command in ("validate", "run"):
        assert main([command, str(tmp_path / "run.yaml")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fedsim: methods.1.teacher: '{folder}'") and "SafetensorError" in line
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"base": written, "space": {"seed": [0, 1]}}))
    with pytest.raises(ConfigError, match=r"trial 0001.*methods\.1\.teacher"):
        sweeps.check(sweeps.expand(sweeps.load(tmp_path / "sweep.yaml")))


def test_a_vocabulary_that_only_the_data_tells_is_compared_before_actors_start(
    model: Callable[..., str], tmp_path: Path
):
    class Never(InProcess):
        def start(self, config: Any) -> None:
            raise AssertionError("actors were started")

    folder = model(GPT2, Interface("text", 299, 16))
    config = loading.load(tree(tmp_path, "text", student={"model": folder}))
    simulation.check(config)  # a tokenizer of 299 tokens could come out
    with pytest.raises(ConfigError, match=r"300 vocabulary.*it has 299") as caught:
        simulation.run(config, executor=Never())
    assert caught.value.field == "student.model"


@pytest.mark.parametrize("modality", DATA)
def test_what_is_foreseen_is_what_the_data_then_demands(modality: str, tmp_path: Path):
    config = loading.load(tree(tmp_path, modality))
    plan = simulation.check(config)
    world = simulation.world(config, build_data(plan))
    told, known = fitting.foreseen(plan), world.interface
    for field in ("modality", "classes", "image_shape", "group_names"):
        assert getattr(told, field) == getattr(known, field)
    assert told.vocabulary >= known.vocabulary and told.window >= known.window

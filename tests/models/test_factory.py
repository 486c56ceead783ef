"""Models: presets, a config.json, pretrained folders; and the way out and back in again."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fedsim.config import Training
from fedsim.data import tokenizers
from fedsim.errors import ConfigError
from fedsim.learning.learner import Learner
from fedsim.modalities import modality
from fedsim.models import presets
from fedsim.models.export import export
from fedsim.models.factory import build, check, import_classes, size
from fedsim.models.flops import forward_flops
from fedsim.models.presets import PRESETS, REFERENCE
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples, Interface

TEXT = Interface("text", 300, 16)
IMAGE = Interface("image", 3, 0, (1, 8, 8), ("cat", "dog", "eel"))
PROMPTS = ((5, 0, 0), (6, 7, 0), (8, 6, 0))
PAIRS = Interface("image_text", 3, 3, (1, 8, 8), ("cat", "dog", "eel"), PROMPTS, vocabulary=300)
INTERFACES = {"text": TEXT, "image": IMAGE, "image_text": PAIRS}
ANY = {"text": "llama-tiny", "image": "vit-micro", "image_text": "clip-micro"}
SMALL = [name for name, preset in PRESETS.items() if preset.millions is None]
LARGE = [name for name, preset in PRESETS.items() if preset.millions is not None]


def inputs(interface: Interface, n: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    if interface.modality == "text":
        return {"input_ids": torch.randint(interface.classes, (n, interface.window), generator=draw)}
    pixels = {"pixel_values": torch.randn(n, *interface.image_shape, generator=draw)}
    return {**pixels, "input_ids": torch.tensor(interface.prompts)} if interface.prompts else pixels


def logits(model: torch.nn.Module, interface: Interface) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.eval()(**inputs(interface))
    return outputs.logits_per_image if interface.prompts else outputs.logits


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", SMALL)
def test_a_preset_answers_for_the_datas_classes(name: str):
    interface = INTERFACES[PRESETS[name].modality]
    model = build(name, interface, seed=0)
    said = logits(model, interface)
    shape = (2, 16, 300) if interface.modality == "text" else (2, 3)
    assert said.shape == shape
    assert said.dtype == torch.float32
    if interface.prompts:  # cosines over CLIP's first temperature
        assert said.abs().max() <= 1 / 0.07 + 1e-3
    else:
        # A fresh model knows nothing: it is about as surprised as a uniform guess.
        answers = torch.zeros(said[..., 0].numel()).long()
        guess = torch.nn.functional.cross_entropy(said.flatten(0, -2), answers)
        assert abs(guess.item() - math.log(interface.classes)) < 1.0
    # What the quickstart trains on two cores, and teachers for it.
    assert size(model) < (2_000_000 if name.endswith("-small") else 1_000_000)
    assert forward_flops(model, inputs(interface)) > 2 * size(model) / 10


@pytest.mark.parametrize("name", LARGE)
def test_a_large_preset_has_as_many_parameters_as_it_says(name: str):
    preset = PRESETS[name]
    with torch.device("meta"):
        model = build(name, REFERENCE[preset.modality], seed=0)
    assert size(model) / 1e6 == pytest.approx(preset.millions, rel=0.002)
    twin = next(p for n, p in PRESETS.items() if n.endswith("-tiny") and p.model_type == preset.model_type)
    assert twin.shape.keys() >= preset.shape.keys()


@pytest.mark.parametrize(
    ("named", "name"),
    [
        (125, "opt-125m"),
        (350, "opt-350m"),
        (760, "opt-760m"),
        (1300, "opt-1.3b"),
        (86, "vit-b16"),
        (304, "vit-l16"),
        (150, "clip-b32"),
        (150, "clip-b16"),
        (430, "clip-l14"),
    ],
)
def test_the_sizes_that_the_field_names(named: int, name: str):
    assert PRESETS[name].millions == pytest.approx(named, rel=0.02)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_and_the_name_decide_the_weights(name: str):
    interface = INTERFACES[PRESETS[name].modality]
    first = build(name, interface, seed=1)
    torch.manual_seed(99)
    assert same(first, build(name, interface, seed=1))
    assert not same(first, build(name, interface, seed=2))


def test_a_window_longer_than_usual_is_read():
    long = Interface("text", 300, 200)
    for name in (n for n in SMALL if PRESETS[n].modality == "text"):
        assert logits(build(name, long, 0), long).shape == (2, 200, 300)


def test_a_config_json_is_built_for_the_data(tmp_path: Path):
    shape = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50_257}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    for path in (tmp_path, tmp_path / "config.json"):
        model = build(str(path), TEXT, seed=0)
        assert logits(model, TEXT).shape == (2, 16, 300)
        assert model.config.n_embd == 16
        presets.check(str(path), "text", "student.model")
    renamed = tmp_path / "small.json"
    renamed.write_text(json.dumps(shape))
    # What it says decides the weights, not where it lies: a run can be repeated in another folder.
    assert same(build(str(renamed), TEXT, seed=0), model)
    renamed.write_text(json.dumps({**shape, "summary_type": "mean"}))
    assert not same(build(str(renamed), TEXT, seed=0), model)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_exported_comes_back_with_the_same_weights(name: str, tmp_path: Path):
    interface = INTERFACES[PRESETS[name].modality]
    named = name in ("llama-tiny", "clip-micro")
    tokenizer = tokenizers.train(["a few words, and a few more words"], 300) if named else None
    learner = learner_of(name, interface)
    export(learner, interface, tmp_path / "student", tokenizer)
    back = build(str(tmp_path / "student"), interface, seed=5)  # the seed must not matter
    assert same(back, learner.engine.model)
    assert torch.equal(logits(back, interface), logits(learner.engine.model, interface))
    assert not list((tmp_path / "student").glob("*.bin"))  # no pickle


def learner_of(name: str, interface: Interface) -> Learner:
    engine = TorchEngine(build(name, interface, seed=3), Training(), torch.device("cpu"))
    return Learner(engine, modality(interface.modality, interface.prompts), interface.classes)


def test_transformers_reads_the_student_with_its_tokenizer(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "def f(x):\n    return x + 1  # ünïcode"
    trained = tokenizers.train([text], 300)
    learner = learner_of("pythia-tiny", TEXT)
    export(learner, TEXT, tmp_path, trained)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(model, TEXT), logits(learner.engine.model, TEXT))
    reader = AutoTokenizer.from_pretrained(tmp_path)
    ids = reader(text)["input_ids"]
    assert ids == tokenizers.encode(trained, [text])[0][:-1].tolist()
    assert reader.decode(ids) == text
    assert reader.eos_token_id == 0
    tokenizers.load(str(tmp_path))  # usable as data.tokenizer of the next run


@pytest.mark.parametrize("channels", [1, 3])
def test_transformers_reads_the_student_with_its_image_processor(channels: int, tmp_path: Path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    interface = replace(IMAGE, image_shape=(channels, 8, 8))
    learner = learner_of("vit-micro", interface)
    export(learner, interface, tmp_path, None)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "eel"}
    assert torch.equal(logits(model, interface), logits(learner.engine.model, interface))
    pixels = np.random.default_rng(0).integers(256, size=(1, channels, 8, 8)).astype(np.uint8)
    picture = Image.fromarray(pixels[0, 0] if channels == 1 else pixels[0].transpose(1, 2, 0))
    ready = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    examples = Examples({"pixel_values": pixels}, np.zeros(1, np.int64), np.zeros(1, np.uint64))
    trained_on = modality("image").inputs(examples, np.arange(1), torch.device("cpu"))["pixel_values"]
    torch.testing.assert_close(ready, trained_on, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("modality", "other", "said"),
    [
        ("text", Interface("text", 301, 16), "301 vocabulary .*tokenizer.*has 300"),
        ("image", Interface("image", 4, 0, (1, 8, 8)), "4 labels; it has 3"),
        ("image_text", replace(PAIRS, vocabulary=301), "301 vocabulary .*tokenizer.*has 300"),
        ("image_text", replace(PAIRS, image_shape=(1, 16, 16)), "16 pixels a side .*has 8"),
        ("image_text", replace(PAIRS, image_shape=(3, 8, 8)), "3 channels; it has 1"),
    ],
)
def test_a_pretrained_model_of_other_classes_is_refused(
    modality: str, other: Interface, said: str, tmp_path: Path
):
    export(learner_of(ANY[modality], INTERFACES[modality]), INTERFACES[modality], tmp_path, None)
    with pytest.raises(ConfigError, match=said):
        build(str(tmp_path), other, seed=0)


def test_what_is_no_model_is_refused(tmp_path: Path):
    for name in ("llama-tny", str(tmp_path), str(tmp_path / "gone.json")):
        with pytest.raises(ConfigError, match="a preset"):
            build(name, TEXT, seed=0)
        with pytest.raises(ConfigError, match=r"student\.model.*llama-tiny"):
            presets.check(name, "text", "student.model")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="can be read"):
        presets.check(str(tmp_path), "text", "student.model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="model_type"):
        presets.check(str(tmp_path), "text", "student.model")
    with pytest.raises(ConfigError, match="reads image"):
        presets.check("llama-tiny", "image", "student.model")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "tf_model.h5"])
def test_weights_that_are_no_safetensors_are_not_passed_over(file: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "training_args.bin").touch()  # which are no weights
    presets.check(str(tmp_path), "text", "student.model")
    (tmp_path / file).touch()
    for name in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ConfigError, match=rf"student\.model.*safetensors, which {file} has to be"):
            presets.check(str(name), "text", "student.model")
    (tmp_path / "model.safetensors").touch()
    presets.check(str(tmp_path), "text", "student.model")


def test_a_pretrained_folder_without_some_weights_is_refused(tmp_path: Path):
    export(learner_of("vit-micro", IMAGE), IMAGE, tmp_path, None)
    weights = load_file(tmp_path / "model.safetensors")
    headless = {name: w for name, w in weights.items() if not name.startswith("classifier")}
    save_file(headless, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"whole model; 2 are missing, e\.g\. classifier\.bias"):
        build(str(tmp_path), IMAGE, seed=0)


def test_norms_with_running_statistics_are_refused(tmp_path: Path):
    """They are no parameters: nobody would send, average or save them."""
    described = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1],
        "layer_type": "basic",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="GroupNorm"):
        build(str(tmp_path), IMAGE, seed=0)


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def described(kind: str, folder: Path, *, weights: bool) -> str:
    """A folder of a small language model as transformers writes it: of an encoder's type, an encoder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    wanted = {"d_inner": 32, "d_model": 32, "n_layer": 2, "n_head": 2} if kind == "xlnet" else SHAPE
    config = AutoConfig.for_model(kind, vocab_size=300, **wanted)
    config.save_pretrained(folder)
    if weights:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        assert not getattr(AutoConfig.from_pretrained(folder), "is_decoder", False)
    return str(folder)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "bert", "electra", "roformer", "roberta"])
def test_a_folders_language_model_never_sees_later_tokens(kind: str, weights: bool, tmp_path: Path):
    folder = described(kind, tmp_path, weights=weights)
    if (kind, weights) == ("roberta", False):  # it counts its positions from a padding token, which is none
        with pytest.raises(ConfigError, match=r"student\.model"):
            check(folder, TEXT, "student.model")
        return
    model = build(folder, TEXT, seed=0).eval()
    ids = inputs(TEXT)["input_ids"]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for place in range(1, TEXT.window):
            changed = ids.clone()
            changed[:, place:] = (changed[:, place:] + 7) % 300
            after = model(input_ids=changed).logits
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-6)
            assert not torch.allclose(after[:, place], before[:, place], rtol=0, atol=1e-4)


def test_language_models_that_read_ahead_are_refused(tmp_path: Path):
    folder = described("xlnet", tmp_path, weights=True)  # it has no field that would make it causal
    with pytest.raises(ConfigError, match=r"student\.model.*causal language model; in this xlnet"):
        check(folder, TEXT, "student.model")


@pytest.mark.parametrize("kind", ["bart", "pegasus", "prophetnet"])
def test_an_encoder_with_a_decoder_is_no_language_model(kind: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError, match=f"decoder alone; {kind} has an encoder"):
        build(str(tmp_path), TEXT, seed=0)


def test_image_text_is_for_dual_encoders(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 16}))
    with pytest.raises(ConfigError, match="of type clip"):
        build(str(tmp_path), PAIRS, seed=0)


def test_a_dual_encoders_config_json_is_built_for_the_data(tmp_path: Path):
    encoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    shape = {"text_config": encoder, "vision_config": {**encoder, "patch_size": 4}, "projection_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **shape}))
    model = build(str(tmp_path), PAIRS, seed=0)
    assert logits(model, PAIRS).shape == (2, 3)
    assert model.config.text_config.hidden_size == model.config.vision_config.hidden_size == 16


def test_the_learned_temperature_stays_below_its_bound():
    model = build("clip-micro", PAIRS, seed=0)
    with torch.no_grad():
        model.logit_scale.fill_(50.0)
    said = logits(model, PAIRS)
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    assert said.abs().max() <= 100.001


def test_the_code_of_models_is_imported_ahead(tmp_path: Path):
    code = "transformers.models.gpt_bigcode.modeling_gpt_bigcode"  # which no other test asks for
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_bigcode"}))
    assert code not in sys.modules
    import_classes(["llama-tiny", "mlp", str(tmp_path)], "text")
    assert code in sys.modules


def test_images_must_be_square():
    with pytest.raises(ConfigError, match=r"data\.image_size.*square"):
        build("vit-micro", Interface("image", 3, 0, (1, 8, 12)), seed=0)


def test_patches_larger_than_the_images_are_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2}))
    with pytest.raises(ConfigError, match=r"patch_size of at most 8.*it is 16"):
        build(str(path), IMAGE, seed=0)
    path.write_text(
        json.dumps({"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2, "patch_size": 8})
    )
    assert logits(build(str(path), IMAGE, seed=0), IMAGE).shape == (2, 3)

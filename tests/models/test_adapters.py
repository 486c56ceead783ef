"""Low-rank adapters: what learns, what stays, what travels, and the plain model that comes out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedsim import loading, simulation
from fedsim.config import Adapter, RunConfig, Training
from fedsim.data import build as build_data
from fedsim.errors import ConfigError
from fedsim.executor import InProcess
from fedsim.host import Host
from fedsim.learning.specialist import Specialist
from fedsim.learning.training import Objective, Phase, Stream
from fedsim.modalities import modality
from fedsim.models.adapters import adapted, merged
from fedsim.models.export import export
from fedsim.models.factory import build, size
from fedsim.models.flops import forward_flops, training_factor
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples, Interface

PROMPTS = ((1, 2, 0), (1, 3, 0), (4, 4, 0))
INTERFACES = {
    "llama-tiny": Interface("text", 300, 16),
    "gpt2-tiny": Interface("text", 300, 16),
    "opt-tiny": Interface("text", 300, 16),
    "vit-micro": Interface("image", 3, 0, (1, 8, 8)),
    "clip-micro": Interface("image_text", 3, 3, (1, 8, 8), prompts=PROMPTS, vocabulary=9),
}
SETTINGS = Adapter(rank=4, alpha=8)
TRAINING = Training(steps=4, batch_size=8, learning_rate=1e-2, warmup=0)


def on(*targets: str) -> Adapter:
    return SETTINGS.model_copy(update={"targets": targets})


def examples(interface: Interface, n: int = 16) -> Examples:
    draw = np.random.default_rng(0)
    arrays = {"input_ids": draw.integers(1, 9, (n, interface.window)).astype(np.int32)}
    if interface.image_shape is not None:
        arrays |= {"pixel_values": draw.integers(256, size=(n, *interface.image_shape)).astype(np.uint8)}
        arrays |= {"labels": draw.integers(3, size=n)}
    if interface.prompts:
        arrays["input_ids"][:, -1] = 0
    return Examples(arrays, np.zeros(n, np.int64), np.arange(n).astype(np.uint64))


def specialist(name: str, settings: Adapter = SETTINGS) -> Specialist:
    interface = INTERFACES[name]
    model = adapted(build(name, interface, seed=0), settings, seed=1)
    kind = modality(interface.modality, interface.prompts)
    return Specialist(TorchEngine(model, TRAINING, torch.device("cpu")), kind, interface.classes)


def train(who: Specialist, name: str, key: str = "a") -> None:
    who.fit(Phase((Stream(examples(INTERFACES[name]), 8),), TRAINING, 1, 1, (0, key)))


@pytest.fixture(params=INTERFACES)
def name(request) -> str:
    return request.param


def test_fresh_adapters_change_nothing(name: str):
    interface, who = INTERFACES[name], specialist(name)
    plain = Specialist(
        TorchEngine(build(name, interface, seed=0), TRAINING, torch.device("cpu")), who.modality, who.classes
    )
    assert who.evaluate(examples(interface)) == pytest.approx(plain.evaluate(examples(interface)), rel=1e-5)


def test_only_adapters_learn_and_only_they_are_parameters(name: str):
    who, interface = specialist(name), INTERFACES[name]
    before = who.weights()
    start = who.parameters().vector
    train(who, name)
    after = who.weights()
    moved = {n for n, w in after.items() if not torch.equal(w, before[n])}
    assert moved
    assert all(".lora_" in n for n in moved)
    assert who.size == len(start) == sum(w.numel() for n, w in after.items() if ".lora_" in n)
    assert who.size < size(build(name, interface, seed=0))
    who.load_parameters(start)
    assert all(torch.equal(w, before[n]) for n, w in who.weights().items())


def test_what_is_exported_is_a_plain_model_that_answers_alike(name: str, tmp_path: Path):
    who, interface = specialist(name), INTERFACES[name]
    train(who, name)
    data = examples(interface)
    trained = who.evaluate(data)
    export(who, interface, tmp_path, None)
    back = build(str(tmp_path), interface, seed=9)
    assert not any("lora" in n for n, _ in back.named_parameters())
    again = Specialist(TorchEngine(back, TRAINING, torch.device("cpu")), who.modality, who.classes)
    assert again.evaluate(data) == pytest.approx(trained, rel=1e-4)
    assert who.evaluate(data) == trained  # to export is not to change


@pytest.mark.parametrize("name", ["llama-tiny", "gpt2-tiny"], indirect=True)
def test_the_merge_is_pefts(name: str):
    who = specialist(name)
    train(who, name)
    weights = who.weights()
    _, ours = merged(who.engine.model, weights)
    theirs = dict(who.engine.model.merge_and_unload().named_parameters())
    assert theirs.keys() <= ours.keys()
    for parameter, weight in theirs.items():
        torch.testing.assert_close(ours[parameter], weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_model_without_adapters_is_its_own_merge():
    model = build("llama-tiny", INTERFACES["llama-tiny"], seed=0)
    weights = dict(model.named_parameters())
    assert merged(model, weights) == (model, weights)


def test_a_saved_specialist_goes_on_bit_for_bit_and_keeps_no_frozen_weights(tmp_path: Path):
    one, other = specialist("llama-tiny"), specialist("llama-tiny")
    train(one, "llama-tiny")
    one.save(tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 4 * 4 * one.size
    train(one, "llama-tiny", "b")
    other.load(tmp_path)
    train(other, "llama-tiny", "b")
    assert np.array_equal(one.parameters().vector, other.parameters().vector)
    assert one.nbytes > 4 * 3 * one.size  # the frozen weights take memory all the same


def test_a_step_on_frozen_weights_is_counted_as_the_cheaper_one_it_is(name: str):
    interface, factors = INTERFACES[name], []
    for model in (build(name, interface, seed=0), specialist(name).engine.model):
        kind = modality(interface.modality, interface.prompts)
        inputs = kind.inputs(examples(interface), np.arange(4), torch.device("cpu"))
        inputs = kind.asked(inputs, Objective(response=1.0, task=0.0))
        with FlopCounterMode(display=False) as counter:
            kind.rows(kind.logits(model(**inputs))).sum().backward()
        factors.append(counter.get_total_flops() / forward_flops(model, inputs))
        assert training_factor(model) == pytest.approx(factors[-1], rel=0.15)
    assert factors[1] < 0.75 * factors[0]


def test_targets_are_layers_by_name():
    few = specialist("llama-tiny", on("q_proj", "v_proj"))
    assert few.size == 2 * 2 * 4 * (128 + 128)  # layers × targets × rank × (in + out)
    with pytest.raises(ConfigError, match=r"participants\.adapter\.targets: .*q_proj"):
        specialist("llama-tiny", on("no_such_layer"))
    with pytest.raises(ConfigError, match="c_attn, c_fc, c_proj"):
        specialist("gpt2-tiny", on("q_proj"))


# In a run -----------------------------------------------------------------------------------------


def config(folder: Path, **overrides: object) -> RunConfig:
    tree = {
        "rounds": 2,
        "output": str(folder / "run"),
        "data": {"source": "digits", "max_examples": 200, "proxy_labelled": True},
        "participants": {
            "count": 3,
            "models": ["vit-micro"],
            "training": {"steps": 2, "batch_size": 8},
            "adapter": {"rank": 2},
        },
        "student": {"model": "vit-micro", "training": {"steps": 2, "batch_size": 8}},
        "pretraining": {"steps": 2},
        "methods": ["fedavg", "federated_distillation"],
    }
    return loading.load(tree, **overrides)


def test_averaging_sends_adapters_and_the_student_comes_out_plain(tmp_path: Path):
    result = simulation.run(config(tmp_path), executor=InProcess())
    rounds = result.rounds.set_index(["method", "round"])
    assert rounds.loc[("fedavg", 2), "loss"] != rounds.loc[("fedavg", 1), "loss"]
    sent = result.messages.query("kind == 'parameters'").bytes
    interface = Interface("image", 10, 0, (1, 8, 8))
    model = build("vit-micro", interface, seed=0)
    few = sum(p.numel() for p in adapted(model, Adapter(rank=2), 0).parameters() if p.requires_grad)
    assert len(sent) == 3 + 3 + 3  # up in both rounds, down in the second
    assert sent.max() < 4 * few + 200 < 4 * size(build("vit-micro", interface, seed=0)) / 3
    student = build(str(result.student), interface, seed=5)
    assert size(student) == size(build("vit-micro", interface, seed=0))


def test_participants_that_share_a_learner_don_t_share_adapters(tmp_path: Path):
    federation = build_data(simulation.check(config(tmp_path)))
    world = simulation.world(config(tmp_path), federation)
    shards = {shard.participant: shard for shard in federation.shards}
    together = Host(world, federation.public, shards)
    alone = Host(world, federation.public, {2: shards[2]})
    start = together.pretrain("vit-micro")
    for host in (together, alone):
        host.set_starts({"vit-micro": start})
    *_, last = together.step("fedavg", 1, [0, 1, 2], None, None, None)[1]
    assert last == alone.step("fedavg", 1, [2], None, None, None)[1][0]


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"pretraining.steps": 0}, "participants.models.0"),
        ({"participants.models": ["mlp"], "methods": ["federated_distillation"]}, "participants.models.0"),
        (
            {"student.model": "mlp", "methods": [{"name": "fedavg", "specialists": "student"}]},
            "student.model",
        ),
        ({"participants.adapter.rank": 0}, "participants.adapter.rank"),
    ],
)
def test_adapters_need_weights_to_sit_on(tmp_path: Path, overrides: dict, field: str):
    with pytest.raises(ConfigError) as caught:
        simulation.check(config(tmp_path, **overrides))
    assert caught.value.field == field

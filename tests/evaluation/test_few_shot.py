"""Few-shot classification by features: the nearest mean against scikit-learn's, episodes, and a whole run."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestCentroid

from fedsim import data, simulation
from fedsim.data.federation import held_out
from fedsim.errors import ConfigError
from fedsim.evaluation.few_shot import episode, nearest, tried
from fedsim.executor import InProcess
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world

SYNTHETIC = {"source": "synthetic", "max_examples": 400, "ways": 4, "episodes": 60}
RNG = np.random.default_rng(3)


def test_the_nearest_mean_is_that_of_scikit_learn():
    features, examples = RNG.normal(size=(200, 8)), RNG.permutation(200)[:15].reshape(3, 5)
    queries = np.setdiff1d(np.arange(200), examples)
    reference = NearestCentroid().fit(features[examples.ravel()], np.repeat(np.arange(3), 5))
    assert np.array_equal(nearest(features, examples, queries), reference.predict(features[queries]))


def test_an_episode_has_different_examples_of_different_classes():
    labels = np.array([0] * 9 + [1] * 3 + [2] * 4 + [3] * 20)
    seen = set()
    for _ in range(50):
        drawn = episode(labels, 2, 4, RNG)
        assert drawn.shape == (2, 4) and len(set(drawn.ravel())) == 8
        classes = [set(labels[row]) for row in drawn]
        assert all(len(c) == 1 for c in classes) and classes[0] != classes[1]
        seen |= set.union(*classes)
    assert seen == {0, 2, 3}  # of class 1 there are too few


def config(tmp_path, steps: int, **few_shot):
    training = {"steps": steps, "batch_size": 16, "learning_rate": 3e-3}
    return load({
        "rounds": 1, "output": str(tmp_path / f"run{steps}"),
        "data": {"source": "digits", "proxy_labelled": True},
        "participants": {"models": ["mlp"], "count": 2}, "student": {"model": "mlp", "training": training},
        "evaluation": {"few_shot": {**SYNTHETIC, **few_shot}},
        "methods": ["proxy_only"],
    })  # fmt: skip


def test_images_of_another_size_are_told_apart(tmp_path):
    measures = simulation.run(config(tmp_path, 40), executor=InProcess()).measures.set_index("name")["value"]
    # Four classes: .25 by chance. Their patterns are told apart by any features, better by more examples.
    assert 0.4 < measures["few_shot/1_shot"] < measures["few_shot/5_shot"] < 1


def test_without_examples_a_dual_encoder_goes_by_the_names():
    set_up(1)
    config = load({
        "data": {"source": "digits", "modality": "image_text", "max_examples": 300},
        "participants": {"models": ["clip-micro"], "count": 2}, "student": {"model": "clip-micro"},
        "evaluation": {"few_shot": {"source": "digits", "max_examples": 400, "episodes": 5}},
    })  # fmt: skip
    made = held_out(config, data.build(data.plan(config)))
    learner = world(config, made).specialist("clip-micro", None, config.participants.training)
    found = tried(learner, made.public.held_out, config.evaluation.few_shot, 0)
    assert set(found) == {"0_shot", "1_shot", "5_shot"}
    # Here the held-out task is the trained one, so that its prompts are those of the score.
    scored = learner.evaluate(replace(made.public.held_out, arrays={
        name: column for name, column in made.public.held_out.arrays.items() if name != "input_ids"
    }))  # fmt: skip
    assert found["0_shot"] == scored[0] and len(made.public.held_out) == 400


def test_names_that_are_alike_where_a_caption_ends_are_not_asked_for(tmp_path):
    """All would be right, for nothing."""
    for kind in ("abandoned warehouse", "abandoned workshop"):
        (tmp_path / kind).mkdir()
        for k in range(8):
            pixels = np.random.default_rng(k + 100 * len(kind)).integers(256, size=(8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{k}.png")
    few = {"source": "files", "path": str(tmp_path), "ways": 2, "shots": [1], "queries": 2}
    config = load({
        "data": {"source": "digits", "modality": "image_text", "max_examples": 300},
        "participants": {"models": ["clip-micro"], "count": 2}, "student": {"model": "clip-micro"},
        "evaluation": {"few_shot": few},
    })  # fmt: skip
    made = held_out(config, data.build(data.plan(config)))
    assert "input_ids" not in made.public.held_out.arrays
    learner = world(config, made).specialist("clip-micro", None, config.participants.training)
    assert set(tried(learner, made.public.held_out, config.evaluation.few_shot, 0)) == {"1_shot"}


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_operations_are_counted_in_sixteen_bits_too(tmp_path, model):
    ran = simulation.run(
        load(config(tmp_path, 2).model_dump(mode="json"), **{
            "student.model": model, "participants.models": [model], "student.engine.precision": "bf16",
        }),
        executor=InProcess(),
    )  # fmt: skip
    assert (ran.rounds.flops_coordinator[1:] > 0).all()


def test_too_few_of_a_class_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"few_shot\.ways.* at most 0: so many classes have 100 images"):
        simulation.run(config(tmp_path, 1, queries=95), executor=InProcess())
    with pytest.raises(ConfigError, match=r"evaluation\.few_shot\.path"):
        simulation.run(config(tmp_path, 1, source="files", path=str(tmp_path / "none")), executor=InProcess())

"""FedDF against logits and averages that are computed on their own."""

import numpy as np
import pytest
import torch

from fedsim.errors import ConfigError, MessageError
from fedsim.learning.training import Objective, Stream
from fedsim.methods import method_of
from fedsim.types import COORDINATOR, Parameters

ALIKE = {"name": "feddf", "specialists": "student", "checks": 0}
MIXED = {"participants.models": ["vit-micro", "mlp", "vit-micro"], "participants.count": 4}


def heard(run, round: int) -> list[Parameters]:
    return [run.read(data, round, k) for k, data in enumerate(run.up)]


def logits_of(run, kind: str, vector: np.ndarray) -> np.ndarray:
    """By the model itself, without a learner's help."""
    learner = run.method.learner(kind)
    learner.load_parameters(vector)
    pixels = torch.from_numpy(run.public.proxy.arrays["pixel_values"]).float() / 127.5 - 1
    with torch.no_grad():
        return learner.engine.model.eval()(pixel_values=pixels).logits.double().numpy()


def average(sent: list[Parameters]) -> np.ndarray:
    return np.average([s.vector for s in sent], axis=0, weights=[s.examples for s in sent])


def test_the_teacher_is_the_softmax_of_the_mean_logits(play):
    run = play({"name": "feddf"}, **MIXED)
    run.coordinator.open(1)
    _, run.up = run.host.step("feddf", 1, range(4), None, None, None)
    run.coordinator.receive(range(4), run.up)
    pool = run.coordinator._intake.pool
    kinds = [run.world.model_of("feddf", k) for k in range(4)]
    each = [logits_of(run, kind, h.vector) for kind, h in zip(kinds, heard(run, 1), strict=True)]
    powers = np.exp(np.mean(each, axis=0))
    expected = powers / powers.sum(1, keepdims=True)
    teacher = pool.teacher()
    np.testing.assert_allclose(teacher.probs.reshape(-1, 10), expected, atol=1e-6)
    probabilities = np.mean([np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in each], axis=0)
    assert np.abs(probabilities - expected).max() > 1e-4  # the mean of probabilities is another
    assert len(teacher.samples) == len(run.public.proxy)


def test_the_student_starts_at_the_average_and_learns_from_the_teacher(play):
    run = play(ALIKE, **{"student.training.optimizer": "sgd"})  # AdamW blows rounding up to a step
    run.coordinator.open(1)
    _, run.up = run.host.step("feddf", 1, range(3), None, None, None)
    run.coordinator.receive(range(3), run.up)
    teacher = run.coordinator._intake.pool.teacher()
    run.coordinator.learn(1)
    run.coordinator.close(1, None)
    alone = run.method.learner("vit-micro")
    alone.load_parameters(average(heard(run, 1)))
    lesson = Stream(run.public.proxy, 8, Objective(response=1.0, task=0.0), teacher, augment=True)
    alone.fit(run.method.phase(1, COORDINATOR, "distil", lesson))
    np.testing.assert_allclose(run.weights(), alone.parameters().vector, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("marks", "best"),
    [
        ([(0.3, 1.0), (0.5, 3.0), (0.5, 2.0)], 2),  # as right as the one before, and surer
        ([(0.5, 1.0), (0.4, 0.5), (0.5, 1.0)], 0),  # it did harm: the average stays
    ],
)
def test_the_best_on_the_validation_split_is_kept(play, monkeypatch: pytest.MonkeyPatch, marks, best: int):
    run = play({**ALIKE, "checks": 3}, **{"student.training.steps": 8})
    run.coordinator.open(1)
    _, run.up = run.host.step("feddf", 1, range(3), None, None, None)
    run.coordinator.receive(range(3), run.up)
    learner, seen, rates = run.coordinator._desk.learner, [], []
    evaluate, step = learner.evaluate, learner.engine.step

    def marked(examples):
        if examples is run.public.validation:
            seen.append(run.weights())
            return marks[len(seen) - 1]
        return evaluate(examples)

    def stepped(loss, rate):
        rates.append(rate)
        step(loss, rate)

    monkeypatch.setattr(learner, "evaluate", marked)
    monkeypatch.setattr(learner.engine, "step", stepped)
    run.coordinator.learn(1)
    run.coordinator.close(1, None)
    assert len(seen) == 3  # the average and two parts of four steps: three don't divide eight
    np.testing.assert_allclose(seen[0], average(heard(run, 1)), rtol=0, atol=1e-6)
    assert np.array_equal(run.weights(), seen[best]) and not np.array_equal(seen[0], seen[2])
    phase = run.method.phase(1, COORDINATOR, "distil")
    assert rates == pytest.approx([phase.learning_rate(step) for step in range(8)])


def test_without_steps_it_is_fedavg(play):
    still = {"student.training.steps": 0}
    run, plain = play(ALIKE, **still), play({"name": "fedavg", "specialists": "student"}, **still)
    for number in (1, 2):
        run.round(number)
        plain.round(number)
        assert np.array_equal(run.weights(), plain.weights())
    assert run.up == plain.up and run.down == plain.down


def test_every_architecture_has_its_own_average(play):
    run = play({"name": "feddf"}, **MIXED, **{"student.training.steps": 0})
    run.round(1)
    sent = heard(run, 1)
    np.testing.assert_allclose(run.weights(), average([sent[0], sent[2], sent[3]]), rtol=0, atol=1e-6)
    mlp = run.coordinator._desk.memory["mlp"]
    np.testing.assert_allclose(mlp, sent[1].vector, rtol=0, atol=1e-6)
    run.round(2)
    down = run.read(run.down, 2)
    assert np.array_equal(down.vector, np.concatenate([run.opened, mlp]))
    site, seen = run.site(1), []
    site.learner.fit = lambda phase: seen.append(site.learner.parameters().vector)
    run.method.participant_step(site, 2, down)
    assert np.array_equal(seen[0], mlp)


def test_an_architecture_of_which_nobody_delivers_stays_and_is_distilled(play):
    run = play({"name": "feddf"}, **MIXED)
    run.round(1, [0, 2])
    start = run.method.learner("mlp").parameters().vector
    distilled = run.coordinator._desk.memory["mlp"]
    assert len(distilled) == len(start) and not np.array_equal(distilled, start)


def test_a_student_of_an_architecture_of_its_own_is_distilled_only(play):
    run = play({"name": "feddf"}, **{"participants.models": ["mlp"], "student.training.steps": 40})
    before = run.weights()
    closing = run.round(1)
    assert not np.array_equal(run.weights(), before) and closing.learn_loss > 0
    run.round(2)
    assert len(run.down) < 4 * run.world.size_of("mlp") + 200  # it isn't sent to those who can't use it


def test_the_pool_holds_one_teacher_however_many_send(play):
    run = play({"name": "feddf"}, **MIXED)
    run.coordinator.open(1)
    _, run.up = run.host.step("feddf", 1, range(4), None, None, None)
    pool, built = run.coordinator._intake.pool, []
    make = run.method.learner
    pool._method.learner = lambda kind: built.append(kind) or make(kind)
    for k in (0, 2, 3, 1):
        run.coordinator.receive([k], [run.up[k]])
        assert pool._kind == built[-1]
    assert built == ["vit-micro", "mlp"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_who_arrives_when_changes_nothing(play, order: tuple[int, ...]):
    run = play(ALIKE)
    run.coordinator.open(1)
    _, up = run.host.step("feddf", 1, range(3), None, None, None)
    for k in order:
        run.coordinator.receive([k], [up[k]])
    run.coordinator.learn(1)
    run.coordinator.close(1, None)
    reference = play(ALIKE)
    reference.round(1)
    assert np.array_equal(run.weights(), reference.weights())


def test_weights_whose_logits_are_no_numbers_are_refused_whole(play):
    run = play(ALIKE)
    pool = run.method.pool(run.coordinator._desk, 1)
    wild = np.full(run.world.size_of("vit-micro"), 2.0**18, np.float32)
    with pytest.raises(MessageError):
        pool.add(0, Parameters((wild,), run.world.sizes[0]))
    with pytest.raises(MessageError, match="examples"):
        pool.add(0, Parameters((run.weights(),), run.world.sizes[0] + 1))
    assert not pool.logits.weight and not pool.means["vit-micro"].sum.weight


def test_what_it_can_t_hold_or_do_is_refused(play, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedsim.methods.feddf._MOST_LOGITS", 10)
    run = play(ALIKE)
    with pytest.raises(ConfigError, match=r"feddf\.proxy_per_round: 1\.0.*at most"):
        method_of(run.world, "feddf").check_sizes()
    with pytest.raises(ConfigError, match=r"participants\.adapter"):
        play(ALIKE, **{"participants.adapter": {"rank": 2}})
    with pytest.raises(ConfigError, match=r"methods\.0\.checks: 5 .*expected 0: there is no"):
        play({"name": "feddf"}, **{"data.split.validation": 0})

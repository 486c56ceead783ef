"""FedAvg in few bits, and on adapters: against FedAvg itself, and against hand-made sums."""

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.loading import load
from fedsim.simulation import check
from fedsim.wire import update
from fedsim.wire.messages import MAX_PARAMETER

SAME = {"specialists": "student"}
EIGHT = {"name": "fedavg", "bits": 8, **SAME}
LORA = {"name": "fedavg", "adapter": {"rank": 2}, **SAME}
START = {"pretraining.steps": 2, "data.proxy_labelled": True}


def test_both_ends_begin_a_round_with_the_same_bits(play):
    run = play(EIGHT)
    run.round(1)
    assert run.down is None
    run.round(2)
    received, site = run.read(run.down, 2), run.site()
    seen = []
    site.learner.fit = lambda phase: seen.append(site.learner.parameters().vector)
    run.method.participant_step(site, 2, received)
    assert np.array_equal(seen[0], run.told)


def test_the_student_is_what_was_broadcast_and_the_mean_change(play):
    run = play(EIGHT)
    for number in (1, 2):
        run.round(number)
        heard = [run.read(data, number, k) for k, data in enumerate(run.up)]
        counts = [len(shard.train) for shard in run.shards.values()]
        assert [h.examples for h in heard] == counts
        steps = [h.codes * np.repeat(h.scales, update.BLOCK)[: len(h.codes)] for h in heard]
        expected = run.told + np.average(steps, axis=0, weights=counts)
        np.testing.assert_allclose(run.weights(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7), (2, 1)])
def test_it_is_fedavg_within_a_step_of_each_sender(play, bits: int, most: int):
    coded, exact = play({**EIGHT, "bits": bits}), play({"name": "fedavg", **SAME})
    for run in (coded, exact):
        run.round(1)
    sent = [exact.read(data, 1, k).vector - exact.opened for k, data in enumerate(exact.up)]
    step = max(np.abs(change).max() for change in sent) / most
    apart = np.abs(coded.weights() - exact.weights())
    assert 0 < apart.max() < 1.001 * step


def test_who_missed_a_round_is_not_behind(play):
    run = play(EIGHT)
    run.round(1, [0, 1])
    closing = run.round(2, [2])
    assert closing.statuses == {2: "ok"}
    (heard,) = [run.read(data, 2, 2) for data in run.up]
    np.testing.assert_allclose(run.weights(), run.told + update.values(heard), rtol=0, atol=1e-7)


def test_however_far_the_student_is_pushed_its_next_message_is_read(play):
    """Each change is within its bounds; a round later their sum would not have been."""
    run = play(EIGHT)
    run.round(1)
    run.round(2)
    learner = run.coordinator._desk.learner
    pushed = learner.parameters().vector
    pushed[-10:] += MAX_PARAMETER * np.linspace(0.9, 0.98, 10, dtype=np.float32)
    run.coordinator._desk.memory["told"] = pushed
    pool = run.method.pool(run.coordinator._desk, 3)
    change = np.zeros_like(pushed)
    change[-10:] = 0.5 * MAX_PARAMETER
    pool.sum.add(change, 1.0)
    run.method.coordinator_step(run.coordinator._desk, 3, pool)
    far = learner.parameters().vector - run.coordinator._desk.memory["start"]
    assert 0.98 * MAX_PARAMETER < far.max() < MAX_PARAMETER
    np.testing.assert_array_equal(learner.parameters().vector[:-10], pushed[:-10])
    run.round(3)
    run.read(run.down, 3)


def test_eight_bits_are_a_quarter_of_the_bytes_both_ways(play):
    run, plain = play(EIGHT), play({"name": "fedavg", **SAME})
    for number in (1, 2):
        run.round(number)
        plain.round(number)
    # AdamW's first steps are all of one size, which leaves the entropy coder little to win.
    for coded, exact in zip([run.down, *run.up], [plain.down, *plain.up], strict=True):
        assert len(coded) < 0.26 * len(exact)


def test_fedprox_takes_them_as_well(play):
    prox = play({**EIGHT, "name": "fedprox", "mu": 0.0})
    plain = play(EIGHT)
    prox.round(1)
    plain.round(1)
    assert prox.up == plain.up


def test_only_this_contenders_adapters_travel(play):
    run, whole = play(LORA, **START), play({"name": "fedavg", **SAME}, **START)
    for number in (1, 2):
        run.round(number)
    whole.round(1)
    assert run.method.adapter.rank == 2 and whole.method.adapter is None
    size = run.coordinator._desk.learner.size
    assert size == run.site().learner.size < whole.coordinator._desk.learner.size / 4
    assert len(run.up[0]) < len(whole.up[0]) / 4
    heard = [run.read(data, 2, k) for k, data in enumerate(run.up)]
    expected = np.average([h.vector for h in heard], axis=0, weights=[h.examples for h in heard])
    np.testing.assert_allclose(run.weights(), expected, rtol=0, atol=1e-7)
    assert not np.array_equal(run.weights(), run.opened)


def test_a_contender_with_adapters_and_one_without_share_no_learner(play):
    run = play(LORA, **START, methods=[LORA, {"name": "fedavg", "label": "whole", **SAME}])
    whole = play({"name": "fedavg", "label": "whole", **SAME}, **START)
    _, alone = whole.host.step("whole", 1, [0, 1], None, None, None)
    for _ in range(2):
        run.host.step("fedavg", 1, [0, 1], None, None, None)
        assert run.host.step("whole", 1, [0, 1], None, None, None)[1] == alone


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({}, "student.model"),
        ({**START, "student.model": "mlp", "participants.models": ["mlp"]}, "student.model"),
        ({**START, "methods.0.specialists": "participants"}, "methods.0.specialists"),
        ({**START, "methods.0.bits": 9}, "methods.0.bits"),
    ],
)
def test_what_can_t_be_averaged_or_adapted_is_refused(overrides: dict, field: str):
    base = {
        "data": {"source": "digits"},
        "participants": {"models": ["vit-micro", "vit-tiny"]},
        "student": {"model": "vit-micro"},
        "methods": [{**LORA}],
    }
    with pytest.raises(ConfigError) as refused:
        check(load(base, **overrides))
    assert refused.value.field == field


@pytest.mark.parametrize(("kind", "strength", "likeness"), [("sign_flip", 1.0, -1.0), ("noise", 1.0, 0.0)])
def test_an_adversary_turns_its_change_as_well(play, kind: str, strength: float, likeness: float):
    lies = {"participants.adversary": {"kind": kind, "share": 0.34, "strength": strength}}
    honest, run = play(EIGHT), play(EIGHT, **lies)
    honest.round(1)
    run.round(1)
    (liar,) = [k for k in range(3) if run.up[k] != honest.up[k]]
    one, other = (update.values(r.read(r.up[liar], 1, liar)) for r in (run, honest))
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(likeness, abs=0.03)

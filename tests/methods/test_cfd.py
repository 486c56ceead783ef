"""CFD: the bytes that the paper counts, and labels that both ends hold alike whatever goes wrong."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import events
from fedsim.adversaries import tamper
from fedsim.aggregation.changes import changed, keep, kept, patched
from fedsim.config import Adversary
from fedsim.errors import DivergedError, MessageError
from fedsim.methods.cfd import CFD
from fedsim.types import Responses
from fedsim.wire import Expectation, decode, encode
from fedsim.wire.quantise import largest_remainder, to_dense

PROXY, CLASSES = 80_000, 10  # the paper's: STL-10 as the proxy set of CIFAR-10


def labels(ids: np.ndarray, samples: np.ndarray | None = None) -> Responses:
    """One-bit labels."""
    n = len(ids)
    samples = np.arange(n) if samples is None else samples
    ones = np.ones(n, np.int32)
    return Responses(samples, 1, CLASSES, 1, np.arange(n + 1), ids.astype(np.int32), ones)


def size(knowledge: Responses) -> int:
    return len(encode(knowledge, direction="up", round=2, sender=0).data)


def test_a_round_of_one_bit_labels_costs_what_the_paper_says():
    probabilities = np.zeros((PROXY, CLASSES), np.float32)
    assert (
        probabilities.nbytes == 3_200_000 and 10 * probabilities.nbytes == 32_000_000
    )  # plain FD, ten rounds
    bound = PROXY * math.log2(CLASSES) / 8
    assert round(bound / 1000, 1) == 33.2
    worst = size(labels(np.random.default_rng(0).integers(0, CLASSES, PROXY)))
    assert bound < worst < bound + 150
    usual = np.random.default_rng(1).choice(CLASSES, PROXY, p=np.r_[0.28, np.full(9, 0.08)])
    p = np.bincount(usual) / PROXY
    entropy = -(p * np.log2(p)).sum() * PROXY / 8
    assert entropy < size(labels(usual)) < entropy + 150


@pytest.mark.parametrize("part", [0.2, 0.05, 0.01])
def test_what_changed_costs_where_it_is_and_what_it_is(part: float):
    draw = np.random.default_rng(2)
    old = draw.integers(0, CLASSES, PROXY)
    places = draw.random(PROXY) < part
    new = np.where(places, (old + draw.integers(1, CLASSES, PROXY)) % CLASSES, old)
    news = changed(labels(old), labels(new))
    assert np.array_equal(news.samples, np.flatnonzero(places))
    q = places.mean()
    where = PROXY * -(q * math.log2(q) + (1 - q) * math.log2(1 - q)) / 8
    what = places.sum() * math.log2(CLASSES) / 8
    assert where + what - 5 < size(news) < 1.01 * (where + what) + 320  # with the coder's tables
    assert size(news) < size(labels(new))


def test_nothing_new_costs_next_to_nothing():
    same = labels(np.random.default_rng(0).integers(0, CLASSES, PROXY))
    news = changed(same, same)
    assert not len(news.samples) and size(news) < 120
    data = encode(news, direction="up", round=2, sender=0).data
    expect = Expectation("responses", "up", 2, 0, classes=CLASSES, positions=1, levels=1, proxy_size=PROXY)
    back = decode(data, expect, 2**22)
    assert np.array_equal(patched(same, back).ids, same.ids)


@pytest.mark.parametrize(("positions", "levels"), [(1, 1), (3, 7), (2, 255)])
def test_what_changed_and_the_old_make_the_new(positions: int, levels: int):
    draw = np.random.default_rng(levels)

    def answers(probs: np.ndarray) -> Responses:
        lengths, ids, counts = largest_remainder(probs, levels)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return Responses(np.arange(3, 3 + 2 * 50, 2), positions, 6, levels, offsets, ids, counts)

    before = draw.dirichlet(np.full(6, 0.3), 50 * positions).astype(np.float32) + np.float32(1e-6)
    after = before.copy()
    rows = draw.choice(len(before), 20, replace=False)
    after[rows] = draw.dirichlet(np.full(6, 0.3), 20) + 1e-6
    old, new = answers(before), answers(after)
    news = changed(old, new)
    apart = (to_dense(old, slice(None)) != to_dense(new, slice(None))).reshape(50, -1).any(1)
    assert np.array_equal(news.samples, new.samples[apart]) and 0 < apart.sum() < 50
    memory: dict[str, np.ndarray] = {}
    keep(memory, "old", old)
    again = patched(kept(memory, "old"), news)
    for column in ("samples", "offsets", "ids", "counts"):
        assert np.array_equal(getattr(again, column), getattr(new, column))
    assert kept(memory, "another") is None


TROUBLE = {
    "rounds": 6,
    "participants.count": 4,
    "participants.participation": 0.8,
    "participants.dropout": 0.1,
    "participants.message_loss": 0.3,
}


@pytest.mark.parametrize("trouble", [{}, TROUBLE], ids=["calm", "trouble"])
@pytest.mark.parametrize("bits", [1, 3])
def test_delta_coding_saves_bytes_and_changes_nothing_else(play, trouble: dict, bits: int):
    settings = {"name": "cfd", "bits_up": bits, "bits_down": bits}
    runs = [play({**settings, "delta": delta}, **trouble) for delta in (True, False)]
    sent = [0, 0]
    for number in range(1, 7 if trouble else 4):
        who = events.active(runs[0].config, number)
        for place, run in enumerate(runs):
            run.round(number, who)
            sent[place] += sum(len(data) for data in [*run.up, run.down] if data)
        assert np.array_equal(runs[0].weights(), runs[1].weights())
    assert sent[0] < sent[1] or trouble  # who is seldom there has much to say


def test_everybody_who_works_holds_the_same_labels_and_only_what_arrived_is_taken_note_of(play):
    run = play({"name": "cfd"}, **TROUBLE)
    arrived: dict[int, np.ndarray] = {}
    lost = 0
    for number in range(1, 7):
        who = events.active(run.config, number)
        closing = run.round(number, who)
        memory = run.coordinator._desk.memory
        for k in who:
            mine = run.host._residents["cfd", k].site.memory
            if number > 1:
                assert np.array_equal(mine["down ids"], memory["down ids"])
            if closing.statuses.get(k) == "ok":
                arrived[k] = mine["sent ids"]
            else:
                lost += 1
        assert {k for k in range(4) if f"{k} ids" in memory} == set(arrived)
        for k, ids in arrived.items():
            assert np.array_equal(memory[f"{k} ids"], ids)
            assert np.array_equal(run.host._residents["cfd", k].site.memory["arrived ids"], ids)
    assert lost


def test_who_diverged_is_told_all_labels_again(play, monkeypatch, tmp_path):
    """It goes on from an older state, which what has changed since the last round doesn't fit."""
    run = play({"name": "cfd"}, rounds=4)
    step = CFD.participant_step

    def diverging(self, site, round, received):
        done = step(self, site, round, received)
        if (site.participant, round) == (1, 2):
            raise DivergedError("the training loss is nan")
        return done

    monkeypatch.setattr(CFD, "participant_step", diverging)
    held, previous = {}, None
    for number in range(1, 5):
        message, folder = run.coordinator.open(number), tmp_path / str(number)
        folder.mkdir()
        told = message.data if message else None
        reports, up = run.host.step("cfd", number, range(3), told, previous, folder)
        assert [r.fate for r in reports] == ["", "diverged" if number == 2 else "", ""]
        if number == 2:  # a round's folder has everybody's last good state
            shutil.copytree(previous / "participant-00001", folder / "participant-00001")
        held = {k: _load_memory(folder, k) for k in range(3) if number != 2 or k != 1}
        for memory in held.values():
            if number > 1:
                assert np.array_equal(memory["down ids"], run.coordinator._desk.memory["down ids"])
        run.coordinator.receive(range(3), up)
        run.coordinator.learn(number)
        run.coordinator.close(number, None)
        previous = folder


def _load_memory(folder, participant):
    return load_file(str(folder / f"participant-{participant:05d}" / "memory.safetensors"))


def test_the_student_learns_the_mean_of_the_labels(play):
    run = play({"name": "cfd", "proxy_part": 0.5})
    for number in (1, 2):
        run.coordinator.open(number)
        down = None if number == 1 else run.down
        _, up = run.host.step("cfd", number, range(3), down, None, None)
        run.coordinator.receive(range(3), up)
        pool = run.coordinator._intake.pool.sum.result()
        votes = np.zeros((len(pool.samples), 10))
        for k in range(3):
            votes[np.arange(len(votes)), run.host._residents["cfd", k].site.memory["sent ids"]] += 1 / 3
        dense = np.zeros_like(votes)
        dense[np.repeat(np.arange(len(votes)), np.diff(pool.offsets)), pool.ids] = pool.probs
        np.testing.assert_allclose(dense, votes, atol=1e-6)
        assert len(votes) == round(len(run.public.proxy) / 2)
        run.coordinator.learn(number)
        run.coordinator.close(number, None)
        run.down = run.coordinator._method.broadcast(run.coordinator._desk, number + 1)
        run.down = encode(run.down, direction="down", round=number + 1, sender=-1).data


def test_labels_that_can_t_be_completed_or_were_not_asked_for_are_refused(play):
    run = play({"name": "cfd", "proxy_part": 0.5})
    samples = run.method.samples()
    others = np.setdiff1d(np.arange(run.world.proxy_size), samples)
    whole = labels(np.zeros(len(samples)), samples)
    pool = run.method.pool(run.coordinator._desk, 1)
    some = replace(
        whole, samples=samples[:3], offsets=whole.offsets[:4], ids=whole.ids[:3], counts=whole.counts[:3]
    )
    with pytest.raises(MessageError, match="3 labels of"):
        pool.add(0, some)
    with pytest.raises(MessageError, match="nobody asked"):
        pool.add(0, labels(np.zeros(1), others[:1]))
    pool.add(0, whole)
    pool.add(0, some)  # now there is something that it changes


def test_an_adversary_that_has_nothing_new_to_say_says_nothing():
    same = labels(np.arange(10))
    nothing = changed(same, same)
    liar = Adversary(kind="least_likely")
    assert tamper(nothing, None, liar, np.random.default_rng(0)) is nothing

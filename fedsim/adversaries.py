"""Participants that work against the federation: what they do to their data, answers and messages.

Their data
    label_flip        images of class y are labelled K − 1 − y
    backdoor          half of their images carry a bright square in a corner and the label 0
Their training
    free_rider        none: they answer with the public start, later with what they digested of it
Their answers (what is mixed in with `strength`; below 1 the attack hides among honest answers)
    least_likely      all on the class they hold least likely (LMA of Roux et al., arXiv 2402.12265)
    least_similar     all on the class that is least like the one they predict, by the covariance of their
                      own answers (CPA, ibid.)
    poison            the logits with their sign turned, 1/p ÷ Σ 1/p (logit poisoning, arXiv 2401.03685)
    sign_flip         (1 − p) ÷ (K − 1); of parameters: the step from the broadcast ones, turned round
    noise             a uniform draw from the simplex; of parameters: normal, of their standard deviation
    false_confidence  as `least_likely`, and claims to know everything best
    false_prototypes  the centroids of each group, with full confidence, as those of the next
    false_features    what layers hold of each proxy sample as what they hold of the next
Their messages
    malformed         one byte in a hundred is a random one
    oversized         a byte more than is accepted, all zero
    replay            what was sent the round before

All adversaries of a run are of one kind, and which participants they are depends on the seed alone.
Nothing here is drawn anew when a step is repeated, so a run with adversaries resumes like any other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from fedsim.config import Adversary, RunConfig
from fedsim.errors import ConfigError
from fedsim.seeding import generator
from fedsim.types import (
    Examples,
    Features,
    Knowledge,
    MaskedSums,
    Mixture,
    Parameters,
    Prototypes,
    Responses,
    Shard,
    Update,
)
from fedsim.wire.quantise import largest_remainder, to_dense

OF_LABELS = ("label_flip", "backdoor")
OF_RESPONSES = ("least_likely", "least_similar", "poison", "false_confidence")
"""Kinds that only make sense for labelled images; that parameters can't be tampered with by."""
OF_INSIGHTS = {"false_prototypes": "prototypes", "false_features": "features"}
"""Kinds → what has to be sent for them to change anything, see `methods.base.Method.sends`."""

TARGET = 0
"""The label that a backdoor leads to."""
_CERTAIN = -6e4
"""A claim that no honest participant makes; half precision ends at 65,504."""
_CHUNK_VALUES = 2**21


def of(config: RunConfig) -> frozenset[int]:
    """The participants that are adversaries: their share of all, to the nearest number."""
    people = config.participants
    if people.adversary is None:
        return frozenset()
    number = int(people.adversary.share * people.count + 0.5)
    chosen = generator(config.seed, "adversaries").choice(people.count, number, replace=False)
    return frozenset(int(k) for k in chosen)


def check(config: RunConfig, averaging: list[str], sent: Collection[str]) -> None:
    """Raise ConfigError where the kind has nothing to act on, or a share is nobody.

    averaging: who sends parameters.   sent: what all methods send beside answers.
    """
    adversary, count = config.participants.adversary, config.participants.count
    if adversary is None:
        return
    if adversary.share and not of(config):
        expected = f"0 for a clean run, or at least {0.5 / count:.3g}: of {count} participants that is none"
        raise ConfigError("participants.adversary.share", adversary.share, expected)
    field = "participants.adversary.kind"
    if (needed := OF_INSIGHTS.get(adversary.kind)) and needed not in sent:
        raise ConfigError(field, adversary.kind, f"another kind: no method of this run sends {needed}")
    if adversary.kind in OF_LABELS and config.data.reads != "image":
        raise ConfigError(field, adversary.kind, "another kind: only labels of images can be changed")
    if adversary.kind == "replay" and averaging:
        expected = f"another kind: with {averaging[0]} nobody keeps a message that could be sent again"
        raise ConfigError(field, adversary.kind, expected)
    if adversary.kind in OF_RESPONSES and averaging:
        raise ConfigError(
            field, adversary.kind, f"another kind: {averaging[0]} sends parameters, which have no classes"
        )


def corrupt(shard: Shard, adversary: Adversary, classes: int, rng: np.random.Generator) -> Shard:
    """The shard as an adversary trains on it."""
    if adversary.kind == "label_flip":
        return replace(shard, train=_relabel(shard.train, classes - 1 - shard.train.arrays["labels"]))
    if adversary.kind == "backdoor":
        train, marked = shard.train, rng.random(len(shard.train)) < 0.5
        pixels = train.arrays["pixel_values"].copy()
        pixels[marked] = trigger(pixels[marked])
        train = replace(train, arrays={**train.arrays, "pixel_values": pixels})
        return replace(shard, train=_relabel(train, np.where(marked, TARGET, train.arrays["labels"])))
    return shard


def trigger(pixels: np.ndarray) -> np.ndarray:
    """Images [N, C, H, W] with a bright square, a quarter of a side long, in the lower right corner."""
    marked = pixels.copy()
    side = max(1, min(pixels.shape[2:]) // 4)
    marked[..., -side:, -side:] = 255
    return marked


def triggered(test: Examples) -> Examples:
    """The examples of other labels with the trigger and its label: who is right there was taken in."""
    others = test.take(np.flatnonzero(test.arrays["labels"] != TARGET))
    pixels = trigger(others.arrays["pixel_values"])
    marked = replace(others, arrays={**others.arrays, "pixel_values": pixels})
    return _relabel(marked, np.full(len(others), TARGET))


def tamper(
    knowledge: Knowledge, received: Knowledge | None, adversary: Adversary, rng: np.random.Generator
) -> Knowledge:
    """What an adversary sends in place of what it knows."""
    if isinstance(knowledge, Mixture):
        lies = {name: tamper(part, None, adversary, rng) for name, part in knowledge.parts().items()}
        return replace(knowledge, **lies)  # type: ignore[arg-type]  # of the same kinds as they were
    if isinstance(knowledge, Features):
        codes = np.roll(knowledge.codes, 1, axis=1)
        return replace(knowledge, codes=codes) if adversary.kind == "false_features" else knowledge
    if isinstance(knowledge, Prototypes):
        return _swapped(knowledge) if adversary.kind == "false_prototypes" else knowledge
    if isinstance(knowledge, Parameters):
        return _turned(knowledge, received, adversary, rng)
    if isinstance(knowledge, MaskedSums) and adversary.kind in ("sign_flip", "noise"):
        # Without the mask that it agreed on, whatever it sends is noise in the sum.
        return replace(knowledge, codes=rng.integers(0, 2**32, len(knowledge.codes), np.uint32))
    if isinstance(knowledge, Update):
        return _turned_steps(knowledge, adversary, rng)
    attack = ATTACKS.get(adversary.kind)
    if attack is None or not isinstance(knowledge, Responses) or not knowledge.rows:
        return knowledge
    rows, classes = knowledge.rows, knowledge.classes
    likeness = _likeness(knowledge) if adversary.kind == "least_similar" else None
    lengths, ids, counts = [], [], []
    for start in range(0, rows, size := max(1, _CHUNK_VALUES // classes)):
        p = to_dense(knowledge, slice(start, start + size))
        wrong = attack(p, rng) if likeness is None else _one_hot(likeness[p.argmax(1)].argmin(1), classes)
        mixed = (1 - adversary.strength) * p + adversary.strength * wrong
        length, class_ids, count = largest_remainder(mixed.astype(np.float32), knowledge.levels)
        lengths.append(length)
        ids.append(class_ids)
        counts.append(count)
    changed = replace(
        knowledge,
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]),
        ids=np.concatenate(ids),
        counts=np.concatenate(counts),
    )
    if adversary.kind == "false_confidence":
        certain = {
            name: np.full_like(claimed, value)
            for name, value in (("claims", _CERTAIN), ("skills", 0.0))
            if (claimed := getattr(knowledge, name)) is not None
        }
        changed = replace(changed, **certain)
    return changed


def mangle(
    message: bytes, adversary: Adversary, memory: dict[str, np.ndarray], limit: int, rng: np.random.Generator
) -> bytes:
    """What an adversary puts on the wire in place of a message.

    memory: what it keeps from round to round.   limit: bytes that the coordinator accepts.
    """
    if adversary.kind == "malformed":
        data = np.frombuffer(message, np.uint8).copy()
        places = rng.choice(len(data), max(1, len(data) // 100), replace=False)
        data[places] += rng.integers(1, 256, len(places)).astype(np.uint8)
        return data.tobytes()
    if adversary.kind == "oversized":
        return bytes(limit + 1)
    if adversary.kind == "replay":
        before = memory.get("replay")
        memory["replay"] = np.frombuffer(message, np.uint8).copy()
        return message if before is None else before.tobytes()
    return message


# Answers ------------------------------------------------------------------------------------------


def _least_likely(p_RK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _one_hot(p_RK.argmin(1), p_RK.shape[1])


def _poison(p_RK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turned = 1.0 / np.maximum(p_RK, 1e-3)
    return np.asarray(turned / turned.sum(1, keepdims=True))


def _sign_flip(p_RK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray((1.0 - p_RK) / max(1, p_RK.shape[1] - 1))


def _noise(p_RK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    draws = rng.standard_exponential(p_RK.shape)
    return np.asarray(draws / draws.sum(1, keepdims=True))


ATTACKS = {
    "least_likely": _least_likely,
    "least_similar": _least_likely,  # by another measure, see `_likeness`
    "poison": _poison,
    "sign_flip": _sign_flip,
    "noise": _noise,
    "false_confidence": _least_likely,
}
"""Kind → from honest rows [R, K] to those of the attack."""


def _one_hot(ids_R: np.ndarray, classes: int) -> np.ndarray:
    rows = np.zeros((len(ids_R), classes))
    rows[np.arange(len(ids_R)), ids_R] = 1.0
    return rows


def _swapped(prototypes: Prototypes) -> Prototypes:
    """Every group has the centroids that the one before it had, as far as both have that slot."""
    order = np.lexsort((prototypes.groups, prototypes.slots))
    centroids = prototypes.centroids.copy()
    for slot in np.unique(prototypes.slots):
        of_slot = order[prototypes.slots[order] == slot]
        centroids[of_slot] = prototypes.centroids[np.roll(of_slot, 1)]
    return replace(prototypes, centroids=centroids, confidence=np.ones_like(prototypes.confidence))


def _likeness(responses: Responses) -> np.ndarray:
    """[K, K] covariance of the classes' probabilities over all rows."""
    products = np.zeros((responses.classes, responses.classes))
    sums = np.zeros(responses.classes)
    for start in range(0, responses.rows, size := max(1, _CHUNK_VALUES // responses.classes)):
        p = to_dense(responses, slice(start, start + size)).astype(np.float64)
        products += p.T @ p
        sums += p.sum(0)
    return np.asarray(products / responses.rows - np.outer(sums, sums) / responses.rows**2)


# Parameters and data ------------------------------------------------------------------------------


def _turned(
    mine: Parameters, received: Knowledge | None, adversary: Adversary, rng: np.random.Generator
) -> Parameters:
    if adversary.kind == "sign_flip":
        start = received.vector if isinstance(received, Parameters) else np.zeros_like(mine.vector)
        wrong = 2 * start - mine.vector
    elif adversary.kind == "noise":
        wrong = mine.vector.std() * rng.standard_normal(len(mine.vector), dtype=np.float32)
    else:
        return mine
    mixed = (1 - adversary.strength) * mine.vector + adversary.strength * wrong
    return Parameters((mixed.astype(np.float32),), mine.examples)


def _turned_steps(mine: Update, adversary: Adversary, rng: np.random.Generator) -> Update:
    """The same of a change: its steps turned round, or in a random direction."""
    if adversary.kind == "sign_flip":
        wrong = -mine.codes.astype(np.float64)
    elif adversary.kind == "noise":
        wrong = mine.codes.std() * rng.standard_normal(len(mine.codes))
    else:
        return mine
    mixed = np.rint((1 - adversary.strength) * mine.codes + adversary.strength * wrong)
    return replace(mine, codes=np.clip(mixed, -mine.levels, mine.levels).astype(np.int8))


def _relabel(examples: Examples, labels: np.ndarray) -> Examples:
    return replace(examples, arrays={**examples.arrays, "labels": labels.astype(np.int64)})

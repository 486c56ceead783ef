"""A small federation taken apart, and dense rows to compare with."""

from typing import Any

import numpy as np

from fedsim import data
from fedsim.aggregation.exact import Pooled
from fedsim.coordinator import Coordinator
from fedsim.host import Host
from fedsim.loading import load
from fedsim.methods.base import Site
from fedsim.simulation import world as make_world
from fedsim.types import Responses
from fedsim.wire.quantise import largest_remainder, to_dense
from tests.methods.plain_student import plain_student

rng = np.random.default_rng
N, P, K, LEVELS = 12, 2, 6, 60


class Small:
    """A federation on 120 digits with a student in plain torch: no actor, no DeepSpeed."""

    def __init__(self, *methods: dict[str, Any], count: int = 3) -> None:
        training = {"steps": 3, "batch_size": 8, "learning_rate": 0.01}
        self.config = load(
            {
                "rounds": 3,
                "data": {"source": "digits", "max_examples": 120},
                "participants": {"count": count, "models": ["vit-micro"], "training": training},
                "student": {"model": "vit-micro", "training": training},
                "methods": list(methods),
            }
        )
        self.federation = data.build(data.plan(self.config))
        self.world = make_world(self.config, self.federation)
        self.shards = dict(enumerate(self.federation.shards))

    def site(self, participant: int = 0) -> Site:
        learner = self.world.specialist("vit-micro", None, self.config.participants.training)
        return Site(participant, self.shards[participant], self.federation.public, learner)

    def host(self) -> Host:
        return Host(self.world, self.federation.public, self.shards)

    def coordinator(self, contender: str) -> Coordinator:
        coordinator = Coordinator(self.world, self.federation.public, {}, student=plain_student)
        coordinator.begin(contender, 0, None)
        return coordinator

    def messages(self, contender: str) -> list[bytes]:
        """What everybody sends in round 1."""
        everybody = range(self.config.participants.count)
        return self.host().step(contender, 1, everybody, None, None, None)[1]


def weights(coordinator: Coordinator) -> np.ndarray:
    return coordinator._desk.learner.parameters().vector


FEDAVG = {"name": "fedavg", "specialists": "student"}
DISTIL = {"name": "federated_distillation", "digest_batch": 4}


def said(seed: int, claims: Any = None, *, samples: np.ndarray | None = None) -> Responses:
    """What somebody answers to `samples` (all N if absent)."""
    samples = np.arange(N) if samples is None else samples
    probs = rng(seed).dirichlet(np.full(K, 0.4), len(samples) * P).astype(np.float32) + np.float32(1e-9)
    lengths, ids, counts = largest_remainder(probs, LEVELS)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if claims is not None:
        claims = np.broadcast_to(np.float32(claims), len(samples)).copy()
    return Responses(samples, P, K, LEVELS, offsets, ids, counts, claims)


def dense(pooled: Pooled) -> np.ndarray:
    """[R, K], built entry by entry."""
    rows = np.zeros((len(pooled.samples) * pooled.positions, pooled.classes))
    for r in range(len(rows)):
        for j in range(pooled.offsets[r], pooled.offsets[r + 1]):
            rows[r, pooled.ids[j]] = pooled.probs[j]
    return rows


def of(answer: Responses) -> np.ndarray:
    return to_dense(answer, slice(None)).astype(np.float64)

"""FedProto's table 1 in small: institutions with a few classes each, scored on their own classes.

    python experiments/published/fedproto.py [--rounds 100] [--shots 16] [--seed 0]

The paper has MNIST, 20 clients, three classes of 100 images each on average, 100 rounds: FedProto 97.13 %
with 4k parameters a round, FedAvg 95.04 % with 430k, alone 94.05 %. Here it is scikit-learn's digits (8 × 8
pixels, 1,797 images), so that an institution has 16 images of a class.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from fedsim import data
from fedsim.config import RunConfig
from fedsim.coordinator import Coordinator
from fedsim.data.federation import Federation
from fedsim.host import Host
from fedsim.learning.learner import Learner
from fedsim.loading import load
from fedsim.methods import method_of
from fedsim.process import set_up
from fedsim.seeding import generator
from fedsim.simulation import world
from fedsim.types import Shard, concatenate
from fedsim.world import World

CLIENTS, HELD_OUT = 20, 40
CONTENDERS = ("fedproto", "fedavg", "solo")


def config(seed: int, rounds: int) -> RunConfig:
    training = {"steps": 8, "batch_size": 8, "learning_rate": 1e-3, "schedule": "constant", "augment": False}
    return load(
        {
            "seed": seed,
            "rounds": rounds,
            "data": {"source": "digits", "split": {"test": 0.01, "validation": 0.01, "proxy": 0.01}},
            "participants": {"count": CLIENTS, "models": ["cnn"], "training": training},
            "student": {"model": "cnn", "training": training},
            "methods": list(CONTENDERS),
            "evaluation": {"participants": "never"},
        }
    )


def dealt(run: RunConfig, shots: int) -> Federation:
    """Two to five classes for each institution, `shots` images of each, and the same 40 held out."""
    whole = data.build(data.plan(run.model_copy(update={"participants": one(run)})))
    images = concatenate([part for shard in whole.shards for part in (shard.train, shard.test)])
    draw = generator(run.seed, "n-way k-shot")
    of_class = [draw.permutation(np.flatnonzero(images.groups == y)) for y in range(whole.classes)]
    taken = [HELD_OUT] * whole.classes
    shards = []
    for client in range(CLIENTS):
        train, test = [], []
        # Those with most images left, so that no image is given out twice.
        order = sorted(draw.permutation(whole.classes), key=lambda y: taken[y])
        for y in order[: draw.integers(2, 6)]:
            train.append(of_class[y][taken[y] : taken[y] + shots])
            test.append(of_class[y][:HELD_OUT])
            taken[y] += shots
        shards.append(Shard(client, *(images.take(np.concatenate(part)) for part in (train, test))))
    left = min(len(order) - used for order, used in zip(of_class, taken, strict=True))
    if left < 0:
        raise SystemExit(f"{shots} images of a class are too many: {-left} are missing")
    return replace(whole, shards=tuple(shards))


def one(run: RunConfig) -> Any:
    return run.participants.model_copy(update={"count": 1})


def score(name: str, run: RunConfig, federation: Federation) -> tuple[float, int]:
    """Mean accuracy of the institutions on their own classes, and bytes in both directions."""
    everyone = world(run, federation)
    host = Host(everyone, federation.public, dict(enumerate(federation.shards)))
    method, sent, who = method_of(everyone, name), 0, range(CLIENTS)
    coordinator = Coordinator(everyone, federation.public, {}, student=plain)
    coordinator.begin(name, 0, None)
    for number in range(1, run.rounds + 1):
        message = coordinator.open(number) if method.coordinates else None
        _, up = host.step(name, number, who, message.data if message else None, None, None)
        sent += sum(len(part) for part in up if part) + CLIENTS * (len(message.data) if message else 0)
        if method.coordinates:
            coordinator.receive(who, up)
            coordinator.close(number, None)
    student = coordinator._desk.learner if method.trains_student else None
    learners = [student or host._residents[name, k].learner for k in who]
    tests = [shard.test for shard in federation.shards]
    return float(np.mean([learner.evaluate(t)[0] for learner, t in zip(learners, tests, strict=True)])), sent


def plain(everyone: World, start: np.ndarray | None, *_: Any) -> Learner:
    student = everyone.config.student
    return everyone.specialist(student.model, start, student.training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    set_up(1)
    run = config(chosen.seed, chosen.rounds)
    federation = dealt(run, chosen.shots)
    for name in CONTENDERS:
        accuracy, sent = score(name, run, federation)
        print(f"{name:10} {100 * accuracy:6.2f} %  {sent / chosen.rounds / 1e3:8.1f} kB a round", flush=True)


if __name__ == "__main__":
    main()

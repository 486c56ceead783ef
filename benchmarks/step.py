"""A training step of the student: our learner on DeepSpeed and on plain torch, against a bare loop."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.timing import medians
from fedsim.config import RunConfig, Training
from fedsim.learning.learner import Learner
from fedsim.learning.training import Phase, Stream
from fedsim.process import set_up
from fedsim.student.deepspeed import free_port, join, leave
from fedsim.student.engine import optimizer
from fedsim.types import Examples, Interface
from fedsim.world import World

STEPS, BATCH, WINDOW, VOCABULARY = 10, 16, 64, 1024


def main() -> None:
    """Print the ratios."""
    set_up(1)
    join(0, 1, "127.0.0.1", free_port())
    interface = Interface("text", VOCABULARY, WINDOW)
    world = World(RunConfig(), interface, 500, WINDOW - 1, True, (500,))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (500, WINDOW)).astype(np.int32)
    examples = Examples({"input_ids": tokens}, np.zeros(500, np.int64), np.zeros(500, np.uint64))
    training = Training(steps=STEPS)

    def ours(learner: Learner) -> None:
        learner.fit(Phase((Stream(examples, BATCH),), training, 1, 1, (0, 1)))

    model = world.specialist("pythia-tiny", None, training).engine.model
    stepper = optimizer(model, training)

    def bare() -> None:
        model.train()
        for step in range(STEPS):
            ids = torch.from_numpy(tokens[step * BATCH : (step + 1) * BATCH].astype(np.int64))
            logits = model(input_ids=ids[:, :-1]).logits.flatten(0, 1)
            F.cross_entropy(logits, ids[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stepper.step()
            stepper.zero_grad(set_to_none=True)

    plain, student = world.specialist("pythia-tiny", None, training), world.student(None)
    base, in_torch, in_deepspeed = medians(bare, lambda: ours(plain), lambda: ours(student))
    print(f"\ntraining step: pythia-tiny, {BATCH} × {WINDOW} tokens, one thread, CPU time")
    for name, spent in (("bare loop", base), ("participant", in_torch), ("student", in_deepspeed)):
        print(f"{name:<14}{1e3 * spent / STEPS:>8.1f} ms{spent / base:>8.3f} × bare")
    student.release()
    leave()

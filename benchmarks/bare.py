"""The limit that a framework is measured against: the same FedAvg as a plain PyTorch loop.

One or two processes, each with its part of the participants; no messages, no tables, no checkpoints, no
checks. Weights go round in shared memory.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fedsim import data
from fedsim.config import RunConfig
from fedsim.models.factory import build
from fedsim.simulation import world
from fedsim.types import Examples


def seconds(config: RunConfig, processes: int, rounds: int) -> float:
    """Median seconds of a round over `processes`."""
    torch.set_num_threads(1)  # a second one would wait for the next round by turning, on the workers' cores
    context = torch.multiprocessing.get_context("spawn")
    size = sum(p.numel() for p in _model(config, data.build(data.plan(config))).parameters())
    weights = torch.zeros(size).share_memory_()
    sums = [torch.zeros(size).share_memory_() for _ in range(processes)]
    pipes, workers = [], []
    for number in range(processes):
        mine, theirs = context.Pipe()
        job = (config, number, processes, weights, sums[number], theirs)
        worker = context.Process(target=_work, args=job)
        worker.start()
        pipes.append(mine)
        workers.append(worker)
    total = sum(pipe.recv() for pipe in pipes)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()
        weights.copy_(torch.stack(sums).sum(0) / total)
        times.append(time.perf_counter() - began)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(False)
        worker.join()
    return statistics.median(times[1:])


def _work(config: RunConfig, number: int, processes: int, weights: Any, sums: Any, pipe: Any) -> None:
    """One process: its participants, round by round."""
    torch.set_num_threads(1)
    federation = data.build(data.plan(config))
    model = _model(config, federation)
    parameters = list(model.parameters())
    if number == 0:
        weights.copy_(torch.cat([p.detach().flatten() for p in parameters]))
    settings = config.participants.training
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    shards = [_tensors(shard.train) for shard in federation.shards[number::processes]]
    pipe.send(sum(len(answers) for _, answers in shards))
    while pipe.recv():
        sums.zero_()
        for inputs, answers in shards:
            _set(parameters, weights)
            optimizer = kinds[settings.optimizer](parameters, lr=settings.learning_rate)
            order = torch.randperm(len(answers))
            for step in range(settings.steps):
                first = step * settings.batch_size % max(1, len(answers) - settings.batch_size + 1)
                batch = order[first : first + settings.batch_size]
                logits = model(inputs[batch]).logits
                loss = F.cross_entropy(logits.flatten(0, -2), answers[batch].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            start = 0
            for p in parameters:
                sums[start : start + p.numel()].add_(p.detach().flatten(), alpha=len(answers))
                start += p.numel()
        pipe.send(True)


def _model(config: RunConfig, federation: data.Federation) -> torch.nn.Module:
    return build(config.student.model, world(config, federation).interface, config.seed)


def _set(parameters: list[torch.nn.Parameter], weights: torch.Tensor) -> None:
    start = 0
    with torch.no_grad():
        for p in parameters:
            p.copy_(weights[start : start + p.numel()].view(p.shape))
            start += p.numel()


def _tensors(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and answers of a shard, ready for the model."""
    if "input_ids" in examples.arrays:
        tokens = torch.from_numpy(examples.arrays["input_ids"].astype(np.int64))
        return tokens, torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], -100)], 1)
    pixels = torch.from_numpy(examples.arrays["pixel_values"]).float() / 127.5 - 1.0
    return pixels, torch.from_numpy(examples.arrays["labels"])

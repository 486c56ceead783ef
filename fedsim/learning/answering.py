"""What a model says: its answers, claims, hidden states, scores and sequences, none of which changes it.

Everything here works on rows of predictions (see `modalities`), so it is the same for text and images, and
goes over examples in chunks, so that memory doesn't grow with their number.

Legend: R rows, K classes, n examples, p rows per example, d width, M tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.errors import DivergedError
from fedsim.learning import generation
from fedsim.learning.judges import Judge, TaskLoss, fit_temperature
from fedsim.learning.training import Objective
from fedsim.modalities.base import UNASKED, Modality, chunks
from fedsim.modalities.image_text import ImageText
from fedsim.models.flops import forward_flops
from fedsim.models.taps import tapped
from fedsim.seeding import generator
from fedsim.student.engine import Engine
from fedsim.types import Examples, Responses
from fedsim.wire.feedback import Feedback
from fedsim.wire.quantise import QUANTISERS, TAILED

_CHUNK_VALUES = 2**22
"""Logits held at once when a model only answers: 16 MiB in fp32."""

TASK_LOSS = TaskLoss()

_ANSWER = Objective(response=1.0, task=0.0)
"""What is asked of a model that only answers."""


class Answering:
    """One model that answers.   flops: what it has computed so far."""

    def __init__(self, engine: Engine, modality: Modality, classes: int) -> None:
        self.engine = engine
        self.modality = modality
        self.classes = classes
        self.flops = 0.0
        self._flops: dict[tuple[bool, bool] | None, tuple[float, float]] = {}

    # About the proxy set --------------------------------------------------------------------------

    def express(
        self,
        proxy: Examples,
        samples: np.ndarray,
        *,
        levels: int,
        quantiser: str,
        key: tuple[int | str, ...],
        judge: Judge | None = None,
        top: int | None = None,
        feedback: Feedback | None = None,
        views: int = 1,
    ) -> Responses:
        """The model's responses on `proxy` at `samples`, on a grid of `levels` quanta.

        Probabilities are dense for one chunk at a time only.   judge: makes claims; none without.
        Raises DivergedError where they left the finite numbers, as a last step of training may do unseen.
        views: as often a sample is looked at, all but the first time varied at random; the mean is said.
        top: classes that the quantiser `top_k` names.   feedback: makes up for what quantising took.
        """
        positions = self.modality.positions(proxy)
        rng = generator(*seeded(key), "quantise")
        quantise, tail = QUANTISERS[quantiser], quantiser in TAILED
        if top is not None:
            quantise = functools.partial(quantise, top=top)
        lengths, ids, counts, claims = [], [], [], []
        variation = generator(*seeded(key), "views") if views > 1 else None
        for index, logits_RK in self._answers(proxy, samples, views=views, variation=variation):
            probs = _finite(torch.softmax(logits_RK, dim=-1))
            asked = self.modality.wanted(proxy, index, torch.device("cpu"))
            if asked is not None:  # a certain answer where nobody asks costs next to nothing
                probs[~asked.numpy()] = np.eye(1, self.classes)
            wanted = probs if feedback is None else feedback.wanted(index, probs)
            sent = length, class_ids, count = quantise(np.maximum(wanted, 0), levels, rng)
            if feedback is not None:
                feedback.keep(index, wanted, sent, levels)
            lengths.append(length)
            ids.append(class_ids)
            counts.append(count)
            if judge is not None:
                claims.append(self._judged(proxy, index, logits_RK, judge))
        offsets = np.zeros(len(samples) * positions + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return Responses(
            samples=np.asarray(samples, np.int64),
            positions=positions,
            classes=self.classes,
            levels=levels,
            offsets=offsets,
            ids=np.concatenate(ids),
            counts=np.concatenate(counts),
            claims=np.concatenate(claims) if claims else None,
            tail=tail,
        )

    def hidden(self, examples: Examples, samples: np.ndarray, depths: Sequence[float]) -> list[np.ndarray]:
        """The hidden states at some depths of the model, [n, d] float32 each, one row for each example.

        Raises DivergedError where they left the finite numbers.
        """
        found: list[list[np.ndarray]] = [[] for _ in depths]
        with tapped(self.engine.model, depths) as states:
            for index, _ in self._answers(examples, samples):
                content = self.modality.content(examples, index, self.engine.device)
                for layer, state in zip(found, states, strict=True):
                    layer.append(self.modality.pooled(state, content).float().cpu().numpy())
        whole = [np.concatenate(layer) for layer in found]
        if not all(np.isfinite(layer).all() for layer in whole):
            raise DivergedError("hidden states are not finite; a smaller learning rate may help")
        return whole

    def asked(self, examples: Examples, samples: np.ndarray) -> np.ndarray | None:
        """Which rows of the examples at `samples` anybody asks about, [R] bool; None: all of them."""
        wanted = self.modality.wanted(examples, samples, torch.device("cpu"))
        return None if wanted is None else wanted.numpy()

    def claims(self, examples: Examples, samples: np.ndarray, judge: Judge = TASK_LOSS) -> np.ndarray:
        """What the judge makes of each of the examples at `samples`, [n] float32; by default the mean
        task loss in nats."""
        parts = [
            self._judged(examples, index, logits_RK, judge)
            for index, logits_RK in self._answers(examples, samples)
        ]
        return np.concatenate(parts)

    def calibrate(self, examples: Examples) -> float:
        """The temperature at which the model's predictions fit the labelled examples best; of many
        examples, evenly chosen ones are looked at."""
        size = max(1, _CHUNK_VALUES // (self.modality.positions(examples) * self.classes))
        some = np.arange(0, len(examples), -(-len(examples) // size))
        ((index, logits_RK),) = self._answers(examples, some)
        answers = self._known(examples, index)
        asked = answers != UNASKED
        return fit_temperature(logits_RK[asked], answers[asked])

    def _judged(self, examples: Examples, index: np.ndarray, logits_RK: Tensor, judge: Judge) -> np.ndarray:
        """Claims [n] float32."""
        answers = self.modality.answers(examples, index, self.engine.device)
        rows = judge(index, logits_RK, answers).view(len(index), -1)
        wanted = self.modality.wanted(examples, index, self.engine.device)
        if wanted is None or rows.shape[1] == 1:  # one number for each example
            return rows.mean(1).cpu().numpy().astype(np.float32)
        asked = wanted.view(len(index), -1)
        return ((rows * asked).sum(1) / asked.sum(1).clamp(min=1)).cpu().numpy().astype(np.float32)

    def logits(self, examples: Examples, samples: np.ndarray) -> np.ndarray:
        """The logits on the examples at `samples`, [R, K] float32: all of them at once."""
        return np.concatenate([z.cpu().numpy() for _, z in self._answers(examples, samples)])

    def similarities(self, pairs: Examples, texts: np.ndarray) -> np.ndarray:
        """Of all images and some texts, [N, T] float32: the logits of a dual encoder.   texts: [T, S]."""
        candidates = ImageText(texts)
        parts = self._answers(pairs, np.arange(len(pairs)), candidates)
        return np.concatenate([z.cpu().numpy() for _, z in parts])

    # Scores on labelled examples ------------------------------------------------------------------

    def evaluate(self, examples: Examples) -> tuple[float, float]:
        """(metric, mean loss in nats) on labelled examples."""
        total, correct, rows = 0.0, 0, 0
        judge, examples = self.modality.judged(examples)
        for index, logits_RK in self._answers(examples, np.arange(len(examples)), judge):
            answers = self._known(examples, index)
            total += float(self._nll(examples, index, logits_RK).double().sum())
            correct += int(torch.eq(logits_RK.argmax(-1), answers).sum())
            rows += int((answers != UNASKED).sum())
        return self.modality.score(total / rows, correct / rows), total / rows

    def marks(self, examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each labelled example its summed loss in nats, its rows that are answered right, and its rows
        that are asked about, [N] float64 each."""
        parts = []
        for index, logits_RK in self._answers(examples, np.arange(len(examples))):
            answers, nll = self._known(examples, index), self._nll(examples, index, logits_RK)
            right = torch.eq(logits_RK.argmax(-1), answers)
            columns = torch.stack([nll.double(), right.double(), (answers != UNASKED).double()])
            parts.append(columns.view(3, len(index), -1).sum(2).cpu().numpy())
        loss, correct, rows = np.concatenate(parts, axis=1)
        return loss, correct, rows

    def predictions(self, examples: Examples) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """(indices, logits [R, K] fp32, right answers [R]) of labelled examples, chunk by chunk."""
        for index, logits_RK in self._answers(examples, np.arange(len(examples))):
            yield index, logits_RK, self._known(examples, index)

    def _nll(self, examples: Examples, index: np.ndarray, logits_RK: Tensor) -> Tensor:
        """Task loss of every row, [R]."""
        return F.cross_entropy(logits_RK, self._known(examples, index), reduction="none")

    def _known(self, examples: Examples, index: np.ndarray) -> Tensor:
        """The answers of labelled examples, [R]."""
        answers = self.modality.answers(examples, index, self.engine.device)
        if answers is None:
            raise ValueError("only labelled examples can be scored")
        return answers

    # Sequences and their tokens -------------------------------------------------------------------

    def generate(
        self,
        examples: Examples,
        prompts: np.ndarray,
        room: np.ndarray,
        *,
        end: int,
        key: tuple[int | str, ...] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A continuation of each example's first `prompts` tokens: (offsets [N + 1], tokens [M] int32).

        room: most tokens of each.   key: what the draws are for; None takes the likeliest tokens.
        """
        if not len(examples):
            return np.zeros(1, np.int64), np.zeros(0, np.int32)
        uniform = None if key is None else generator(*seeded(key)).random((len(examples), int(room.max())))
        ids = examples.arrays["input_ids"]
        found = generation.generate(self.engine.model, ids, prompts, room, end, uniform, self.engine.device)
        self._count(examples, len(examples), -(-len(examples) // generation.BATCH))
        return found

    def score_tokens(self, examples: Examples, drawn: np.ndarray | None = None) -> np.ndarray:
        """Log-probabilities of all M asked tokens in turn and of other tokens at the same places (drawn:
        [M, J]), [M, 1 + J] float32."""
        others = 0 if drawn is None else drawn.shape[1]
        scores, at = [np.zeros((0, 1 + others), np.float32)], 0
        for log_probs, asked in self._of_tokens(examples):
            tokens = asked[:, None]
            if drawn is not None:
                more = torch.from_numpy(drawn[at : at + len(tokens)].astype(np.int64)).to(tokens.device)
                tokens = torch.cat([tokens, more], 1)
            scores.append(_finite(log_probs.gather(-1, tokens)))
            at += len(tokens)
        return np.concatenate(scores)

    def token_rows(
        self, examples: Examples, *, levels: int, quantiser: str, key: tuple[int | str, ...]
    ) -> Responses:
        """The model's distributions at all M asked tokens in turn, as rows of one position on a grid of
        `levels` quanta."""
        rng = generator(*seeded(key), "quantise")
        parts = [
            QUANTISERS[quantiser](_finite(log_probs.exp()), levels, rng)
            for log_probs, _ in self._of_tokens(examples)
        ]
        lengths, ids, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return Responses(np.arange(len(lengths)), 1, self.classes, levels, offsets, ids, counts)

    def draw_tokens(self, examples: Examples, draws: int, key: tuple[int | str, ...]) -> np.ndarray:
        """At the places of all M asked tokens, draws from the model's distributions, [M, draws] int32."""
        rows = self.token_rows(examples, levels=draws, quantiser="sample", key=key)
        return np.repeat(rows.ids, rows.counts).reshape(-1, draws)

    def _of_tokens(self, examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
        """(log-probabilities [R, K], tokens [R]) of the asked tokens, chunk by chunk."""
        for index, logits_RK in self._answers(examples, np.arange(len(examples))):
            answers = self._known(examples, index)
            asked = answers != UNASKED
            yield F.log_softmax(logits_RK[asked], dim=-1), answers[asked]

    # Chunk by chunk -------------------------------------------------------------------------------

    def outputs(self, examples: Examples, want: Objective) -> Iterator[tuple[np.ndarray, Any]]:
        """(indices, what the model's forward returns to serve `want`) chunk by chunk."""
        self.engine.model.eval()
        # Captions are compared with all images of a chunk.
        most = _CHUNK_VALUES // (self.modality.positions(examples) * self.classes)
        size = max(1, min(most, math.isqrt(_CHUNK_VALUES)))
        with torch.no_grad():
            for index in chunks(len(examples), size):
                inputs = self.modality.inputs(examples, index, self.engine.device)
                yield index, self.engine.forward(**self.modality.asked(inputs, want))
        self._count(examples, len(examples), -(-len(examples) // size), want)

    def _answers(
        self,
        examples: Examples,
        samples: np.ndarray,
        modality: Modality | None = None,
        views: int = 1,
        variation: np.random.Generator | None = None,
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(indices, logits [R, K] fp32) chunk by chunk.   modality: what asks, if not the learner's.

        views: of several, the logarithm of the mean probabilities; `variation` is what they are varied by.
        """
        modality = modality or self.modality
        self.engine.model.eval()
        size = max(1, _CHUNK_VALUES // (self.modality.positions(examples) * self.classes))
        with torch.no_grad():
            for part in chunks(len(samples), size):
                index = np.asarray(samples)[part]
                inputs, seen = modality.inputs(examples, index, self.engine.device), []
                for view in range(views):
                    shown = modality.augment(inputs, variation) if view and variation is not None else inputs
                    outputs = self.engine.forward(**modality.asked(shown, _ANSWER))
                    seen.append(modality.rows(modality.logits(outputs)).float())
                if views > 1:
                    seen = [torch.stack([F.log_softmax(z, -1) for z in seen]).logsumexp(0) - math.log(views)]
                yield index, seen[0]
        self._count(examples, views * len(samples), views * -(-len(samples) // size))

    def _count(
        self, examples: Examples, passes: int, calls: int, want: Objective = _ANSWER, factor: float = 1
    ) -> None:
        """Add `passes` examples in `calls` forward passes, `factor` times."""
        together = self.modality.together
        key = (want.response > 0, want.task > 0 and self.modality.learnable(examples)) if together else None
        if key not in self._flops:
            one = self._forward_flops(examples, 1, want)
            each = self._forward_flops(examples, 2, want) - one if together else one
            self._flops[key] = one - each, each
        fixed, each = self._flops[key]
        self.flops += (fixed * calls + each * passes) * factor

    def _forward_flops(self, examples: Examples, number: int, want: Objective) -> float:
        inputs = self.modality.inputs(examples, np.zeros(number, np.int64), self.engine.device)
        kind = next(self.engine.model.parameters()).dtype  # 16 bits where the engine's model has them
        fitting = {k: v.to(kind) if v.is_floating_point() else v for k, v in inputs.items()}
        return forward_flops(self.engine.model, self.modality.asked(fitting, want))


def _finite(answers: Tensor) -> np.ndarray:
    found: np.ndarray = answers.cpu().numpy()
    if not np.isfinite(found).all():
        raise DivergedError("answers are not finite; a smaller learning rate may help")
    return found


def seeded(key: tuple[int | str, ...]) -> tuple[int, ...]:
    """A key, whose first part must be the run's seed."""
    seed, *rest = key
    if not isinstance(seed, int):
        raise TypeError("a key begins with the run's seed")
    return (seed, *rest)  # type: ignore[arg-type]

"""What a language model's answers cost at a vocabulary of 32,768, and what coding them costs the student.

Two institutions specialise on one half of the text each and answer a proxy set. What they say is quantised,
encoded, decoded and pooled as in a run; the student begins at the public start, as they did, and learns
from it with a run's default loss. The baseline learns from the same answers as dense fp32.

Text is the source of Python's standard library and, where FEDSIM_TEST_DATA names a folder with
`ag_news/test.csv`, news. Three seeds; about seven minutes on two idle cores.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.responses import dense
from fedsim.types import Interface, Responses
from fedsim.wire.expectation import Expectation
from fedsim.wire.messages import decode, encode, memory_limit
from fedsim.wire.quantise import QUANTISERS, TAILED

if TYPE_CHECKING:
    import torch

CLASSES, WINDOW = 2**15, 64
ROWS = WINDOW - 1
PROXY, VALIDATION, PUBLIC, SHARD = 256, 64, 4096, 512  # windows
BATCH, RATE = 4, 3e-3
START_STEPS, SPECIALIST_STEPS, STUDENT_STEPS = 1024, 60, 64  # start and student: once through their text
TASK = 0.3  # weight of the next token itself in the student's loss
SEEDS = (0, 1, 2)

BYTES, CHANGE = 40.0, 0.01
"""What is claimed: at most so many bytes a token, with at most this change of the validation loss."""


@dataclass(frozen=True)
class Setting:
    """How answers are coded; without a quantiser they are dense fp32."""

    quantiser: str = ""
    levels: int = 0
    top: int | None = None

    def __str__(self) -> str:
        named = f", top {self.top}" if self.top else ""
        return f"{self.quantiser} {self.levels}{named}" if self.quantiser else "dense fp32"


SETTINGS = (
    Setting(),
    Setting("systematic", 30),
    Setting("sample", 28),
    Setting("sample", 12),
    Setting("sample", 4),
    Setting("top_k", 63, 8),
)


def main() -> None:
    """Print the curve."""
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(2, context, initializer=_one_thread) as workers,
    ):
        folder = Path(name)
        workers.submit(_prepare, folder).result()
        list(
            workers.map(
                partial(_specialise, folder), *zip(*((s, k) for s in SEEDS for k in (0, 1)), strict=True)
            )
        )
        starts = list(workers.map(partial(_loss_of_start, folder), SEEDS))
        # The slowest, without quantising but with two teachers to ask in each step, go first.
        jobs = [(seed, setting) for setting in SETTINGS for seed in SEEDS]
        results = dict(zip(jobs, workers.map(partial(_run, folder), *zip(*jobs, strict=True)), strict=True))
    print(
        f"\n{CLASSES:,} tokens, {PROXY * ROWS:,} proxy tokens, {len(SEEDS)} seeds, mean ± standard deviation"
        f"\n{'answers':<18}{'bytes a token':>16}{'validation loss':>20}{'change':>18}"
    )
    print(f"{'(public start)':<18}{'':>16}{_spread(starts, 3):>20}")
    for setting in SETTINGS:
        sizes, losses, changes = [], [], []
        for seed in SEEDS:
            size, loss = results[seed, setting]
            sizes.append(size)
            losses.append(loss)
            changes.append(loss / results[seed, SETTINGS[0]][1] - 1)
        change = statistics.mean(changes)
        kept = statistics.mean(sizes) <= BYTES and abs(change) <= CHANGE
        print(
            f"{setting!s:<18}{_spread(sizes, 1):>16}{_spread(losses, 3):>20}{_spread(changes, 2, 100):>17}%"
            f"{'  as claimed' if kept else ''}"
        )
    print(f"{time.perf_counter() - began:.0f} s; claimed: ≤ {BYTES:.0f} bytes, ≤ {CHANGE:.0%} change")


def _spread(values: list[float], digits: int, times: float = 1.0) -> str:
    mean, deviation = statistics.mean(values) * times, statistics.stdev(values) * times
    return f"{mean:,.{digits}f} ± {deviation:.{digits}f}"


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


# ---- text


def domains() -> list[list[str]]:
    """Two domains of documents: code, and news or else the other half of the code."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
    paths = [p for p in sorted(root.rglob("*.py")) if not skipped & set(p.relative_to(root).parts)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    news = Path(os.environ.get("FEDSIM_TEST_DATA", "")) / "ag_news" / "test.csv"
    if not news.is_file():
        return [texts[::2], texts[1::2]]
    with news.open(encoding="utf-8", newline="") as file:
        return [texts, [" ".join(row[1:]) for row in csv.reader(file)]]


def _prepare(folder: Path) -> None:
    """Tokenise, cut into windows, and train the public start."""
    from tokenizers import Tokenizer

    from fedsim.data.tokenizers import train

    texts = domains()
    tokenizer = Tokenizer.from_str(train([text for domain in texts for text in domain], CLASSES))
    if tokenizer.get_vocab_size() != CLASSES:
        raise SystemExit(f"the text has only {tokenizer.get_vocab_size():,} tokens")
    rng = np.random.default_rng(0)
    each = (PROXY + VALIDATION + PUBLIC) // 2 + SHARD
    for k, domain in enumerate(texts):
        ids: list[int] = []
        for place in rng.permutation(len(domain)):
            ids += [*tokenizer.encode(domain[place][:4_000]).ids, 0]
            if len(ids) >= each * WINDOW:
                break
        else:
            raise SystemExit("the text is too short")
        np.save(folder / f"text-{k}.npy", np.array(ids[: each * WINDOW]).reshape(each, WINDOW))
    model = _model(0)
    _train(model, _windows(folder, "public", 0), START_STEPS, 0)
    _save(model, folder / "start.pt")


def _windows(folder: Path, part: str, seed: int, shard: int | None = None) -> np.ndarray:
    """Windows [n, WINDOW] of a part of the text; with every seed another share of it."""
    halves = [np.load(folder / f"text-{k}.npy") for k in (0, 1)]
    sizes = {"public": PUBLIC // 2, "proxy": PROXY // 2, "validation": VALIDATION // 2, "shard": SHARD}
    first = 0
    parts = {}
    for name, size in sizes.items():
        parts[name] = slice(first, first + size)
        first += size
    if part != "public":  # the public start is the same for all seeds
        for k, half in enumerate(halves):
            rest = np.random.default_rng((seed, k)).permutation(half[sizes["public"] :])
            halves[k] = np.concatenate((half[: sizes["public"]], rest))
    chosen = halves if shard is None else [halves[shard]]
    return np.concatenate([half[parts[part]] for half in chosen])


# ---- models


def _model(seed: int) -> Any:
    from fedsim.models.factory import build

    return build("llama-tiny", Interface("text", CLASSES, WINDOW), seed)


def _save(model: Any, path: Path) -> None:
    import torch

    torch.save(model.state_dict(), path)


def _load(path: Path) -> Any:
    import torch

    model = _model(0)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _logits(model: Any, windows: np.ndarray) -> torch.Tensor:
    """Predictions of each next token, [n · ROWS, K]."""
    import torch

    logits = model(input_ids=torch.from_numpy(windows)).logits
    return logits[:, :-1].reshape(-1, CLASSES).float()


def _train(
    model: Any, windows: np.ndarray, steps: int, seed: int, teacher: Any = None, rate: float = RATE
) -> None:
    """AdamW with linear decay, on the next tokens, or mostly on what `teacher` says of some windows."""
    import torch
    from torch.nn import functional as F

    from fedsim.learning.losses import response_kl

    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    rng = np.random.default_rng((seed, 1))
    passes = -(-steps * BATCH // len(windows))
    order = np.concatenate([rng.permutation(len(windows)) for _ in range(passes)])
    model.train()
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        logits = _logits(model, windows[chosen])
        loss = F.cross_entropy(logits, torch.from_numpy(windows[chosen][:, 1:].ravel()))
        if teacher is not None:
            loss = response_kl(logits, teacher(chosen)) + TASK * loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay.step()
        optimiser.zero_grad()
    model.eval()


def _specialise(folder: Path, seed: int, k: int) -> None:
    """One institution: the public start, trained on its own half."""
    model = _load(folder / "start.pt")
    _train(model, _windows(folder, "shard", seed, k), SPECIALIST_STEPS, seed, rate=RATE / 2)
    _save(model, folder / f"specialist-{seed}-{k}.pt")


# ---- distillation


def _run(folder: Path, seed: int, setting: Setting) -> tuple[float, float]:
    """(bytes a token of one institution, validation loss of the student)."""
    proxy = _windows(folder, "proxy", seed)
    specialists = [_load(folder / f"specialist-{seed}-{k}.pt") for k in (0, 1)]
    size = 4.0 * CLASSES
    if setting.quantiser:
        size, pooled = _exchange(specialists, proxy, setting, seed)
        teacher = partial(_sparse_teacher, pooled)
    else:
        teacher = partial(_dense_teacher, specialists, proxy)
    student = _load(folder / "start.pt")
    _train(student, proxy, STUDENT_STEPS, seed, teacher, rate=RATE / 2)
    return size, _loss(student, _windows(folder, "validation", seed))


def _loss_of_start(folder: Path, seed: int) -> float:
    return _loss(_load(folder / "start.pt"), _windows(folder, "validation", seed))


def _loss(model: Any, validation: np.ndarray) -> float:
    """Mean loss of a next token, nats."""
    import torch
    from torch.nn import functional as F

    total = 0.0
    with torch.no_grad():
        for start in range(0, len(validation), BATCH):
            some = validation[start : start + BATCH]
            answers = torch.from_numpy(some[:, 1:].ravel())
            total += float(F.cross_entropy(_logits(model, some), answers, reduction="sum"))
    return total / len(validation) / ROWS


def _dense_teacher(specialists: list[Any], proxy: np.ndarray, chosen: np.ndarray) -> torch.Tensor:
    import torch

    with torch.no_grad():
        probs = [torch.softmax(_logits(model, proxy[chosen]), dim=-1) for model in specialists]
    return (probs[0] + probs[1]) / 2


def _sparse_teacher(pooled: Pooled, chosen: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(dense(pooled, (chosen[:, None] * ROWS + np.arange(ROWS)).ravel()))


def _exchange(specialists: list[Any], proxy: np.ndarray, setting: Setting, seed: int) -> tuple[float, Pooled]:
    """All answers through the wire: (bytes a token, what the coordinator pools of them)."""
    sums, spent = CountSum(ROWS, CLASSES, setting.levels), 0
    for k, model in enumerate(specialists):
        answer = _answer(model, proxy, setting, np.random.default_rng((seed, k, 2)))
        data = encode(answer, direction="up", round=1, sender=k, samples_known=True).data
        expect = Expectation(
            "responses", "up", 1, k, classes=CLASSES, positions=ROWS, levels=setting.levels,
            proxy_size=PROXY, samples=answer.samples, tail=answer.tail,
        )  # fmt: skip
        received = decode(data, expect, memory_limit(expect))
        assert isinstance(received, Responses)
        sums.add(received, np.ones(PROXY, np.int64))
        spent += len(data)
    return spent / (len(specialists) * PROXY * ROWS), sums.result()


def _answer(model: Any, proxy: np.ndarray, setting: Setting, rng: np.random.Generator) -> Responses:
    quantise = QUANTISERS[setting.quantiser]
    if setting.top:
        quantise = partial(quantise, top=setting.top)
    parts = [quantise(probs, setting.levels, rng) for probs in _probabilities(model, proxy)]
    lengths, ids, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tail = setting.quantiser in TAILED
    return Responses(np.arange(PROXY), ROWS, CLASSES, setting.levels, offsets, ids, counts, tail=tail)


def _probabilities(model: Any, windows: np.ndarray) -> Iterator[np.ndarray]:
    """[BATCH · ROWS, K] at a time: never dense for the whole proxy set."""
    import torch

    with torch.no_grad():
        for start in range(0, len(windows), BATCH):
            yield torch.softmax(_logits(model, windows[start : start + BATCH]), dim=-1).numpy()

"""Small run folders as the simulator writes them: five institutions, four rounds, five contenders.

The numbers are formulas, so that every test can say what it expects.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fedsim import results

ROUNDS, INSTITUTIONS = 4, 5
MODELS = ("llama-tiny", "gpt2-tiny")
METHODS = ("federated_distillation", "fedavg", "centralized", "proxy_only", "solo")
LAST = {"federated_distillation": 48.0, "fedavg": 60.0, "centralized": 42.0, "proxy_only": 90.0}
START = 240.0
"""Perplexity at the shared public start."""
UP = {"federated_distillation": 40_000, "fedavg": 3_480_000}
DOWN = {"federated_distillation": 15_000, "fedavg": 3_480_000}
"""Bytes of one message; nobody else sends."""

STAGES = {
    "federated_distillation": {"float32": 200.0, "quantised": 50.0, "listed": 2.0, "sent": 1.0},
    "fedavg": {"float32": 1.0, "sent": 1.0},
}
"""How many times the bytes of what is sent a message has after each stage of the codec."""


def taught(participant: int) -> float:
    """Every student on an institution's own data: better by a fifth, for the last one worse by a quarter."""
    return alone(participant) * (0.8 if participant < INSTITUTIONS - 1 else 1.25)


Rows = dict[str, list[dict[str, Any]]]


def score(method: str, number: int) -> float:
    """Falls from the start to the method's last score, by halves of what is left."""
    last = LAST.get(method, 100.0)
    return START if number == 0 else last + (START - last) * (0.5**number - 0.5**ROUNDS) * 0.8


def alone(participant: int) -> float:
    return 80.0 + 10 * participant


def together(participant: int) -> float:
    """The last one is worse off in the federation."""
    return 62.0 + 5 * participant if participant < INSTITUTIONS - 1 else 130.0


def rows(
    methods: tuple[str, ...] = METHODS,
    seed: int = 0,
    labels: dict[str, str] | None = None,
    worse: float = 0.0,
    backdoor: bool = False,
) -> Rows:
    """The rows of a text run; `labels` renames contenders, scores grow a little with the seed.

    worse: added to the score of every contender with a student but the centralised one.
    backdoor: whether there is one, which works in half of the cases.
    """
    called = {method: (labels or {}).get(method, method) for method in methods}
    facts = {"metric": "perplexity", "higher_is_better": False}
    out: Rows = {
        "rounds": [],
        "participants": [],
        "messages": [],
        "sections": [],
        "measures": [],
        "partition": [],
    }
    for method in methods:
        for number in range(ROUNDS + 1):
            moved = number > 0 and method in UP
            value = (
                sum(map(alone, range(INSTITUTIONS))) / INSTITUTIONS
                if method == "solo"
                else score(method, number)
            )
            value += worse if method not in ("solo", "centralized") else 0.0
            out["rounds"].append({
                "method": called[method], "algorithm": method, "seed": seed, "round": number, **facts,
                "student": method != "solo",
                "score": START if number == 0 else value + seed, "loss": 3.0,
                "learn_loss": 4.0 / number if number else None, **terms(method, number),
                "attack_success": 0.5 if backdoor and method != "solo" else None,
                "bytes_up": UP[method] * INSTITUTIONS if moved else 0,
                "bytes_down": DOWN[method] * INSTITUTIONS if moved else 0,
                "virtual_s": 25.0 if number else 0.0, "wall_s": 2.0, "flops_participants": 1e12,
                "flops_coordinator": 1e11, "planned": INSTITUTIONS, "delivered": INSTITUTIONS,
                "peak_memory_mib": 400.0,
            })  # fmt: skip
            told = {"method": called[method], "seed": seed, "round": number}
            out["measures"].append({**told, "name": "train/task", "value": 2.5})
            if moved:
                out["measures"] += [
                    {**told, "name": f"wire/up/{stage}", "value": INSTITUTIONS * times * UP[method]}
                    for stage, times in STAGES[method].items()
                ]
            if number == ROUNDS and method != "solo":
                out["measures"] += [
                    {**told, "name": f"local/{p}", "value": taught(p)} for p in range(INSTITUTIONS)
                ]
        if method in ("centralized", "proxy_only"):
            continue
        for number in range(1, ROUNDS + 1):
            for p in range(INSTITUTIONS):
                ended = number == ROUNDS
                value = alone(p) if method == "solo" else together(p)
                out["participants"].append({
                    "method": called[method], "seed": seed, "round": number, "participant": p,
                    "model": MODELS[p % 2], "examples": 100 * (p + 1),
                    "status": "late" if (p, ended, method) == (4, True, "federated_distillation") else "ok",
                    "metric": "perplexity", "score": value + seed if ended else None, "loss": 2.0,
                    "bytes_up": UP.get(method, 0), "bytes_down": DOWN.get(method, 0),
                    "down_s": 1.0 if method in UP else 0.0, "compute_s": 4.0 + 3 * p,
                    "up_s": 2.0 if method in UP else 0.0, "flops": 1e11, "wall_s": 0.3,
                    "local_score": alone(p) if ended else None, "peak_memory_mib": 300.0 + p,
                })  # fmt: skip
                for way, size in (("down", DOWN), ("up", UP)):
                    if method in UP and p == 0:
                        out["sections"] += sections(called[method], seed, number, way, size[method])
                    if method in UP:
                        kind = "parameters" if method == "fedavg" else "responses"
                        out["messages"].append({
                            "method": called[method], "seed": seed, "round": number, "participant": p,
                            "direction": way, "kind": kind, "bytes": size[method], "status": "delivered",
                        })  # fmt: skip
    for p in range(INSTITUTIONS):
        shares = {"email": 60 + 20 * p, "json": 40 if p % 2 else 0, "asyncio": 30 * (p + 1)}
        out["partition"] += [{"participant": p, "group": g, "examples": n} for g, n in shares.items() if n]
    return out


def terms(method: str, number: int) -> dict[str, float]:
    """Of the student's loss: three quarters are the pooled answers', the rest is its own task."""
    if method != "federated_distillation" or not number:
        return {}
    return {"learn_response": 3.0 / number, "learn_task": 1.0 / number}


def sections(method: str, seed: int, number: int, way: str, size: int) -> list[dict[str, Any]]:
    """A message is a header of 34 bytes, numbers, and class ids in a quarter of the rest."""
    kind = "parameters" if size > 1_000_000 else "responses"
    parts = (
        {"vector": size - 34} if kind == "parameters" else {"ids": size // 4, "counts": size - size // 4 - 34}
    )
    return [
        {"method": method, "seed": seed, "round": number, "direction": way, "kind": kind, "section": name,
         "messages": INSTITUTIONS, "bytes": INSTITUTIONS * part}
        for name, part in {"header": 34, **parts}.items()
    ]  # fmt: skip


def save(
    folder: Path,
    tables: Rows,
    *,
    seed: int = 0,
    without: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a run's folder with the simulator's own writers, leaving out what `without` names.

    config: further fields of the configuration.
    """
    folder.mkdir(parents=True)
    for name in results.TABLES:
        if name not in without:
            results.write_table(folder / f"{name}.parquet", name, tables[name])
    if "summary" not in without:
        results.write_json(
            folder / "summary.json", results.summarise(tables["rounds"], tables["participants"])
        )
    if "config" not in without:
        more = yaml.safe_dump(config, sort_keys=False) if config else ""
        text = f"name: {folder.name}\nseed: {seed}\nrounds: {ROUNDS}\n{more}"
        results.write_text(folder / "config.yaml", text)
    if "manifest" not in without:
        manifest = {
            "status": "finished", "seed": seed, "versions": {"fedsim": "0.1.0", "torch": "2.13.0"},
            "hardware": {"cpus": 2, "gpus": []}, "data": {"fingerprint": "sha256:abc"},
        }  # fmt: skip
        results.write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One finished run."""
    return save(tmp_path / "quickstart", rows())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Further runs: make("name", methods=…, seed=…, labels=…, without=…)."""

    def build(
        name: str,
        *,
        seed: int = 0,
        without: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        return save(tmp_path / name, rows(seed=seed, **options), seed=seed, without=without, config=config)

    return build


def attack_rows(seed: int, auc: float) -> list[dict[str, Any]]:
    """As `fedsim attack` leaves them."""
    numbers = {f"{c}{end}": 0.0 for c in ("tpr_at_0001", "tpr_at_001") for end in ("", "_low", "_high")}
    return [
        {
            "method": "federated_distillation", "seed": seed, "target": target, "attack": attack,
            "members": 100, "others": 100, "shadows": 0, "epsilon": math.nan, **numbers,
            "auc": auc + more - less,
            "auc_low": auc + more - less - 0.02, "auc_high": auc + more - less + 0.03,
        }
        for target, more in (("student", 0.0), ("specialists", 0.1))
        for attack, less in (("loss", 0.0), ("lira_online", 0.05))
    ]  # fmt: skip


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """`{"participants.count": 3}` → `{"participants": {"count": 3}}`."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *above, last = name.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def save_sweep(
    root: Path,
    points: list[dict[str, Any]],
    seeds: int = 2,
    worse: Callable[[dict[str, Any]], float] = lambda point: 0.0,
    name: str = "study",
    fields: Callable[[dict[str, Any]], dict[str, Any]] = lambda point: point,
    attacked: Callable[[dict[str, Any]], float] | None = None,
    **options: Any,
) -> Path:
    """A sweep's folder as `fedsim.sweeps` leaves it.

    points: of the grid, axis → value.   worse: point → what its scores are worse by.   The last of the
    trials, with one more seed, failed and has no folder.   attacked: point → AUC of the better of two
    attacks on the student, 0.1 more on specialists.
    """
    folder, trials = root / name, []
    for point in points:
        for seed in range(seeds):
            said = "-".join(f"{axis.rsplit('.', 1)[-1]}={value}" for axis, value in point.items())
            trial = f"{len(trials) + 1:04d}-{said}-seed={seed}"
            tables = rows(seed=seed, worse=worse(point), **options)
            save(folder / "trials" / trial, tables, seed=seed, config=nested(fields(point)))
            if attacked is not None:
                attacks = attack_rows(seed, attacked(point))
                results.write_table(folder / "trials" / trial / "attacks.parquet", "attacks", attacks)
            axes = {f"axis.{axis}": value for axis, value in {**point, "seed": seed}.items()}
            trials.append({"trial": trial, "status": "finished", "reason": "", **axes, "score": 48.0})
    bad = {**trials[-1], "trial": "9999-bad", "status": "failed", "reason": "it diverged", "score": None}
    pd.DataFrame([*trials, bad]).to_parquet(folder / "trials.parquet")
    (folder / "sweep.yaml").write_text(f"name: {name}\n")
    return folder


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """make_sweep(points, seeds=…, worse=…): see `save_sweep`."""
    return functools.partial(save_sweep, tmp_path)


@pytest.fixture(scope="session")
def real_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small sweep as `fedsim sweep` leaves it: 8 runs of six contenders on Ray Tune."""
    from fedsim import sweeps

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "base.yaml").write_text("""
name: small
rounds: 3
data: {source: synthetic, modality: image, max_examples: 600, image_size: 8, proxy_labelled: true}
participants: {count: 4, models: [mlp], training: {steps: 10, batch_size: 16}, dropout: 0.1}
student: {model: mlp, training: {steps: 10, batch_size: 16}}
runtime: {executor: in_process}
methods:
  - {name: federated_distillation, digest_batch: 8}
  - {name: fedavg, specialists: student}
  - fedmd
  - solo
  - centralized
  - proxy_only
""")
    (folder / "sweep.yaml").write_text("""
base: base.yaml
space:
  participants.partition.alpha: [10, 0.1]
  participants.count: [3, 5]
  seed: [0, 1]
""")
    sweep = sweeps.load(folder / "sweep.yaml", output=str(folder / "small"))
    outcome = sweeps.run(sweep)
    assert not outcome.failed
    return folder / "small"

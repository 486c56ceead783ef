"""Membership inference against a finished run: which of these examples were in a participant's shard?

Of each participant as many members as others are in question, with the same labels or domains: the
others are what it kept to test itself and its part of the global test set. This is attacked:

    student       the exported model
    responses     the last that participants sent: a model of their architecture is trained on them, and
                  asked in their place (distillation attack of arXiv 2502.08001)
    specialists   the participants' own models, which nobody else sees: what there was to protect
    sums, sum_of_all    of a readout, see `sums`

A shadow is the whole contender again, with another seed and with half of the examples in question, drawn
anew, in place of the members; the next shadow has the other half. So every example is in half of them,
and shards are as large as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim import events, simulation
from fedsim.attacks import labels, lira, metrics, sums
from fedsim.config import RunConfig
from fedsim.data.federation import Federation, build
from fedsim.disk import storage
from fedsim.disk.checkpoints import Checkpoints
from fedsim.disk.scratch import Folder
from fedsim.disk.storage import AnyPath
from fedsim.executor import InProcess
from fedsim.learning.training import Objective, Phase, Stream
from fedsim.methods import method_of
from fedsim.methods.base import Method
from fedsim.network import Clock
from fedsim.progress import Progress
from fedsim.results import Row
from fedsim.round import Place, run_round
from fedsim.seeding import generator
from fedsim.types import Examples, Public, Responses, Shard, concatenate
from fedsim.world import World

if TYPE_CHECKING:
    from fedsim.learning.specialist import Specialist

Observed = dict[str, dict[str, np.ndarray]]
"""Target → signal → [N], for all examples in question, participant by participant; NaN for those of one that
gave nothing away: it wasn't asked, or never finished a round."""


@dataclass(frozen=True)
class Question:
    """Of one participant: 2c examples in question, the c members first, and its other training examples."""

    participant: int
    examples: Examples
    rest: Examples

    @property
    def members(self) -> int:
        return len(self.examples) // 2

    @property
    def trained_on(self) -> Examples:
        """All that the participant trained on in the run that is attacked."""
        return concatenate([self.examples.take(np.arange(self.members)), self.rest])

    def shard(self, inside: np.ndarray, test: Examples) -> Shard:
        """The shard that has these of the examples in question.   inside: bool [2c], c of them true."""
        return Shard(
            self.participant, concatenate([self.rest, self.examples.take(np.flatnonzero(inside))]), test
        )


@dataclass(frozen=True)
class Audit:
    """What is attacked.   config: with the contender as its only method."""

    config: RunConfig
    federation: Federation
    questions: tuple[Question, ...]

    @property
    def contender(self) -> str:
        return self.config.methods[0].contender

    @property
    def member(self) -> np.ndarray:
        """Who was in, [N] bool."""
        inside = [np.arange(2 * q.members) < q.members for q in self.questions]
        return np.concatenate([np.zeros(0, bool), *inside])


def prepare(config: RunConfig, contender: str) -> Audit:
    """The data of a run and what is asked about it."""
    chosen = tuple(m for m in config.methods if m.contender == contender)
    evaluation = config.evaluation.model_copy(update={"participants": "never", "every": config.rounds})
    config = config.model_copy(update={"methods": chosen, "evaluation": evaluation})
    data = build(simulation.check(config))
    return Audit(config, data, questions(data, config.seed))


def questions(data: Federation, seed: int) -> tuple[Question, ...]:
    """Of each participant as many members as others, group by group."""
    found, count = [], len(data.shards)
    for shard in data.shards:
        who, test = shard.participant, data.public.test
        others = concatenate([shard.test, test.take(np.arange(who, len(test), count))])
        rng = generator(seed, who, "attack/questions")
        inside, outside = [], []
        for group in np.unique(shard.train.groups):
            mine, theirs = (rng.permutation(np.flatnonzero(e.groups == group)) for e in (shard.train, others))
            number = min(len(mine), len(theirs))
            inside.append(mine[:number])
            outside.append(theirs[:number])
        asked = np.sort(np.concatenate(inside))
        rest = np.setdiff1d(np.arange(len(shard.train)), asked)
        both = concatenate([shard.train.take(asked), others.take(np.sort(np.concatenate(outside)))])
        found.append(Question(who, both, shard.train.take(rest)))
    return tuple(found)


def draw(audit: Audit, shadow: int) -> list[np.ndarray]:
    """Who of the examples in question is in a shadow, for each participant [2c] bool: shadows 0 and 1, 2 and
    3, … have complementary halves."""
    found = []
    for question in audit.questions:
        rng = generator(audit.config.seed, shadow // 2, question.participant, "attack/shadow")
        inside = rng.permutation(np.arange(2 * question.members) < question.members)
        found.append(~inside if shadow % 2 else inside)
    return found


def shadows(audit: Audit, number: int, progress: Progress) -> list[Observed]:
    """What `number` shadows give away, one after the other in this process."""
    found = []
    for k in range(number):
        progress.phase(f"{k} of {number} shadows")
        found.append(shadow(audit, k))
    return found


def shadow(audit: Audit, number: int) -> Observed:
    """Run the contender as shadow `number`, in this process, and look at it."""
    seed = int(generator(audit.config.seed, number, "attack/seed").integers(2**32))
    runtime = audit.config.runtime.model_copy(update={"executor": "in_process"})
    config = audit.config.model_copy(update={"seed": seed, "runtime": runtime})
    shards = [
        question.shard(inside, whole.test)
        for question, inside, whole in zip(
            audit.questions, draw(audit, number), audit.federation.shards, strict=True
        )
    ]
    data = replace(audit.federation, shards=tuple(shards))
    with Folder() as folder:
        _run(config, data, folder)
        world = simulation.world(config, data)
        return observe(world, data.public, audit.questions, folder, folder / "student")


def observe(
    world: World, public: Public, asked: Sequence[Question], folder: AnyPath, student: AnyPath | None
) -> Observed:
    """The signals of what there is in a run's folder.   student: the exported one, if it is to be asked."""
    from fedsim.attacks.signals import signals

    method = method_of(world, world.config.methods[0].contender)
    starts = _starts(world, public)
    found: dict[str, list[dict[str, np.ndarray] | None]] = {"specialists": [], "responses": []}
    state = Checkpoints(folder, method.contender).state(world.config.rounds)
    asked = [question for question in asked if question.members]
    for question in asked:
        specialist = _specialist(world, method, question.participant, state, starts)
        surrogate = specialist and _surrogate(world, method, question.participant, specialist, public, starts)
        for target, learner in (("specialists", specialist), ("responses", surrogate)):
            found[target].append(signals(learner, question.examples) if learner is not None else None)
    if student is not None and student.exists():
        released = _released(world, student)
        found["student"] = [signals(released, question.examples) for question in asked]
    return {target: whole for target, parts in found.items() if (whole := _whole(parts, asked))}


def _whole(parts: Sequence[dict[str, np.ndarray] | None], asked: Sequence[Question]) -> dict[str, np.ndarray]:
    """The signals of all examples in question; empty where nobody gave any."""
    names = next((list(part) for part in parts if part is not None), [])
    return {
        name: np.concatenate([
            np.full(2 * question.members, np.nan) if part is None else part[name]
            for part, question in zip(parts, asked, strict=True)
        ])
        for name in names
    }  # fmt: skip


def observe_sums(world: World, asked: Sequence[Question], student: AnyPath | None) -> Observed:
    """The signals of a readout's sums, for the run that is attacked; none without one."""
    method = method_of(world, world.config.methods[0].contender)
    if getattr(method.settings, "readout", None) is None or student is None or not student.exists():
        return {}
    shards = [question.trained_on for question in asked]
    return sums.observe(_released(world, student), shards, [question.examples for question in asked])


def judge(audit: Audit, target: Observed, shadows: Sequence[Observed], epsilon: float) -> list[Row]:
    """The rows of the attacks table.   epsilon: what training has spent at most; NaN without privacy."""
    rows: list[Row] = []
    inside = np.stack([np.concatenate(draw(audit, k)) for k in range(len(shadows))]) if shadows else None
    for name, found in target.items():
        told = np.isfinite(found["loss"] if "loss" in found else next(iter(found.values())))
        attacks: list[tuple[str, np.ndarray, np.ndarray]] = [
            (attack, found[attack], told) for attack in ("loss", "min_k", "leverage") if attack in found
        ]
        if inside is not None and "phi" in found and all(name in seen for seen in shadows):
            phis = np.stack([seen[name]["phi"] for seen in shadows])
            both = told & np.isfinite(phis).all(0)  # others than in the run may be the ones that aren't asked
            for attack, of in (("lira_online", lira.online), ("lira_offline", lira.offline)):
                scores = np.full(len(both), np.nan)
                scores[both] = of(found["phi"][both], phis[:, both], inside[:, both])
                attacks.append((attack, scores, both))
        for attack, scores, known in attacks:
            ins, outs = scores[known & audit.member], scores[known & ~audit.member]
            if not len(ins) or not len(outs):
                continue
            row: Row = {
                "method": audit.contender,
                "seed": audit.config.seed,
                "target": name,
                "attack": attack,
                "members": len(ins),
                "others": len(outs),
                "shadows": len(shadows),
                "epsilon": epsilon,
            }
            for column, estimate in (
                ("auc", metrics.auc(ins, outs)),
                ("tpr_at_0001", metrics.tpr_at(ins, outs, 0.001)),
                ("tpr_at_001", metrics.tpr_at(ins, outs, 0.01)),
            ):
                row |= {
                    column: estimate.value,
                    f"{column}_low": estimate.low,
                    f"{column}_high": estimate.high,
                }
            rows.append(row)
    return rows


def label_rows(world: World, data: Federation, folder: AnyPath, epsilon: float) -> list[Row]:
    """The rows of the labels table: what the last responses tell of each participant's labels; none where
    answers are about something else than labels, or less than two participants gave any."""
    if world.interface.modality == "text" or world.interface.classes != len(data.group_names):
        return []
    method, starts = method_of(world, world.config.methods[0].contender), _starts(world, data.public)
    state = Checkpoints(folder, method.contender).state(world.config.rounds)
    said: dict[int, Responses] = {}
    for shard in data.shards:
        specialist = _specialist(world, method, shard.participant, state, starts)
        if specialist is None:
            continue
        answers = _said(world, method, shard.participant, specialist, data.public)
        if answers is not None:
            said[shard.participant] = answers
    if len(said) < 2:
        return []
    counts = [np.bincount(data.shards[k].train.groups, minlength=world.interface.classes) for k in said]
    truth = np.stack([number / number.sum() for number in counts])
    rows: list[Row] = []
    for name, found in labels.estimates(list(said.values())).items():
        apart, alike = labels.errors(found, truth), labels.correlations(found, truth)
        for place, participant in enumerate(said):
            rows.append(
                {
                    "method": method.contender,
                    "seed": world.seed,
                    "participant": participant,
                    "estimate": name,
                    "error": float(apart[place]),
                    "correlation": float(alike[place]),
                    "epsilon": epsilon,
                }
            )
    return rows


def _run(config: RunConfig, data: Federation, folder: Path) -> None:
    """All rounds of the only contender, and its student."""
    world, executor = simulation.world(config, data), InProcess()
    method, contender = method_of(world, config.methods[0].contender), config.methods[0].contender
    checkpoints, clock = Checkpoints(folder, contender), Clock(config)
    executor.connect(config)
    executor.start(config)
    try:
        executor.prepare(world, data)
        if method.coordinates:
            executor.begin(0, contender, 0, None)
        for round in range(1, config.rounds + 1):
            previous = checkpoints.state(round - 1) if round > 1 else None
            place = Place(method, 0, previous, checkpoints.partial(round))
            checkpoints.commit(round, [run_round(executor, place, round, clock)()])
        if method.trains_student:
            executor.export(0, folder / "student", "", data.tokenizer_json)
    finally:
        executor.stop()


def _released(world: World, student: AnyPath) -> Specialist:
    """An exported student."""
    with storage.loading(student) as local:
        return world.specialist(str(local), None, world.config.student.training)


def _starts(world: World, public: Public) -> dict[str, np.ndarray]:
    from fedsim.host import Host

    if not world.config.pretraining.steps:
        return {}
    host = Host(world, public, {})
    return {model: host.pretrain(model) for model in world.architectures()}


def _specialist(
    world: World, method: Method, participant: int, state: AnyPath, starts: dict[str, np.ndarray]
) -> Specialist | None:
    """A participant's model at the end; None where it keeps none, or never finished a round."""
    folder, people = state / f"participant-{participant:05d}", world.config.participants
    if not folder.exists():
        return None
    model = world.model_of(method.contender, participant)
    specialist = world.specialist(model, starts.get(model), people.training, method.adapter)
    specialist.load(folder)
    return specialist


def _surrogate(
    world: World,
    method: Method,
    participant: int,
    specialist: Specialist,
    public: Public,
    starts: dict[str, np.ndarray],
) -> Specialist | None:
    """A model that has learnt a participant's last responses; None where it sends no responses."""
    from fedsim.aggregation.responses import as_pooled

    rounds, people = world.config.rounds, world.config.participants
    said = _said(world, method, participant, specialist, public)
    if said is None:
        return None
    model = world.model_of(method.contender, participant)
    learner = world.specialist(model, starts.get(model), people.training, method.adapter)
    training = people.training.model_copy(update={"steps": people.training.steps * rounds})
    lesson = Stream(
        public.proxy.take(said.samples),
        training.batch_size,
        Objective(response=1.0, task=0.0),
        teacher=as_pooled(said),
    )
    learner.fit(Phase((lesson,), training, 1, 1, (world.seed, participant, "attack/surrogate")))
    return learner


def _said(
    world: World, method: Method, participant: int, specialist: Specialist, public: Public
) -> Responses | None:
    """A participant's last responses; None where it sent none. The last round may be of another kind, or one
    in which it wasn't asked."""
    for round in range(world.config.rounds, 0, -1):
        if participant not in events.active(method.exposed, round):
            continue
        expected = method.expect("up", round, participant, specialist.size)
        parts = () if expected is None else (expected, *expected.parts)
        of_answers = next((part for part in parts if part.kind == "responses"), None)
        if of_answers is not None:
            break
    else:
        return None
    samples = of_answers.samples if of_answers.samples is not None else np.arange(world.proxy_size)
    return specialist.express(
        public.proxy,
        samples,
        levels=of_answers.levels,
        quantiser=getattr(method.settings, "quantiser", "largest_remainder"),
        key=method.key(round, participant, "express"),
        views=getattr(method.settings, "views", 1),
    )

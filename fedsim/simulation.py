"""A whole run: data, contenders round by round, tables, student, report. Resumes where it stopped.

    fedsim.run(config) -> Result

The driver orchestrates: it plans the data (user errors come out here, before any actor starts),
lets the executor run the rounds, and writes rows. Contenders run one after the other, or several
side by side in lanes; each has its own state, so the order changes nothing.
"""

from __future__ import annotations

import io
import itertools
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from fedsim import adversaries, fitting, plugins, privacy, results, shortage
from fedsim.config import RunConfig
from fedsim.contender import Contender
from fedsim.data import SOURCES, federation, tokenizers
from fedsim.disk import storage
from fedsim.disk.checkpoints import PARTS, Checkpoints, hold
from fedsim.disk.folders import check_lasts, finished, open_folder, take_over, usable
from fedsim.disk.manifest import manifest, model_card
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.evaluation import exams
from fedsim.executor import Executor, InProcess
from fedsim.intake import check_limit
from fedsim.interrupt import InterruptedRun
from fedsim.methods import METHODS, method_of
from fedsim.models import presets
from fedsim.network import Clock
from fedsim.process import give_back
from fedsim.progress import Progress, Quiet
from fedsim.results import Row
from fedsim.types import Interface
from fedsim.world import World

if TYPE_CHECKING:
    import pandas as pd


class Result:
    """A finished run's folder and its tables as DataFrames (columns: `fedsim.results.TABLES`)."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        with storage.reading(self.folder / f"{name}.parquet") as source:
            return pd.read_parquet(source)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per method and round."""
        return self._table("rounds")

    @cached_property
    def participants(self) -> pd.DataFrame:
        """One row per method, round and participant."""
        return self._table("participants")

    @cached_property
    def messages(self) -> pd.DataFrame:
        """One row per message."""
        return self._table("messages")

    @cached_property
    def sections(self) -> pd.DataFrame:
        """What messages consist of: one row per method, round, direction, kind and section."""
        return self._table("sections")

    @cached_property
    def measures(self) -> pd.DataFrame:
        """What else was measured of the students: one row per method, round and name."""
        return self._table("measures")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per contender."""
        import pandas as pd

        text = (self.folder / "summary.json").read_text(encoding="utf-8")
        return pd.read_json(io.StringIO(text), precise_float=True)  # or numbers lose their last bit

    @property
    def report(self) -> AnyPath:
        return self.folder / "report.html"

    @property
    def student(self) -> AnyPath:
        """The exported student, for `from_pretrained` (which reads local folders)."""
        return self.folder / "student"


def check(config: RunConfig) -> federation.Plan:
    """All that can be found wrong without starting anything; returns the data plan.

    Raises ConfigError."""
    check_settings(config)
    plan = federation.plan(config)
    if plan.raw.modality != "text":  # whose windows only `build` counts
        privacy.check_shards(config, [len(train) for train, _ in plan.shards])
    fitting.check(config, fitting.foreseen(plan), built=False)
    return plan


def check_settings(config: RunConfig) -> None:
    """The part of `check` that reads no data. Raises ConfigError."""
    people = config.participants
    check_lasts(config.folder)  # which a URI has to be reached for
    if config.data.source not in SOURCES:
        raise ConfigError("data.source", config.data.source, "one of " + ", ".join(sorted(SOURCES)))
    modality = config.data.reads
    if modality is None:
        raise ConfigError(
            "data.modality",
            config.data.modality,
            f"text, image or image_text for source {config.data.source}",
        )
    for place, model in enumerate(people.models):
        presets.check(model, modality, f"participants.models.{place}")
    presets.check(config.student.model, modality, "student.model")
    for place, entry in enumerate(config.methods):
        reads = METHODS[entry.name].modalities
        if modality not in reads:
            expected = f"a method for {modality}; it works on {', '.join(sorted(reads))}"
            raise ConfigError(f"methods.{place}.name", entry.name, expected)
        METHODS[entry.name].check(config, entry, f"methods.{place}")
    exams.check(config, modality)
    if people.adapter is not None:
        _check_adapter(config)
    privacy.check_installed(config)
    sent = {kind for m in config.methods for kind in METHODS[m.name].sends(config, m)}
    adversaries.check(config, [m.contender for m in config.methods if METHODS[m.name].averages], sent)
    if config.pretraining.steps:
        _check_pretraining(config)


def _check_pretraining(config: RunConfig) -> None:
    """Raise ConfigError where the proxy set, or a model, is none for the objective."""
    settings, people = config.pretraining, config.participants
    if settings.objective == "task":
        if not config.data.proxy_answered:
            expected = "0, or pretraining.objective: masked_image for images: the proxy set is unlabelled"
            raise ConfigError("pretraining.steps", settings.steps, expected)
        return
    if config.data.reads == "text":
        raise ConfigError("pretraining.objective", settings.objective, "task: there are no images")
    used = {f"participants.models.{k}": model for k, model in enumerate(people.models)}
    for field, model in {**used, "student.model": config.student.model}.items():
        if not presets.has_patches(model):
            expected = "a vision transformer or dual encoder, as pretraining.objective is masked_image"
            raise ConfigError(field, model, expected)


def _check_adapter(config: RunConfig) -> None:
    """Raise ConfigError where everybody is to have adapters, and some model can't."""
    used = {f"participants.models.{k}": model for k, model in enumerate(config.participants.models)}
    if any(entry.specialists == "student" for entry in config.methods):
        used["student.model"] = config.student.model
    presets.check_adapter(used, "participants.adapter", started=config.pretraining.steps > 0)


def run(
    config: RunConfig,
    *,
    resume: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run a config to its end, or continue it in its folder.

    Raises ConfigError for what the user can mend, RunError for what happened on the way; after a
    RunError, an InterruptedRun, or after the process died, `resume=True` continues at the last
    finished round.
    """
    progress = progress or Quiet()
    plan = check(config)
    with usable(config.folder, resume):
        folder = open_folder(config, resume)
        lock = hold(folder)
    storage.tidy(folder)
    runner = executor or _executor(config)
    try:
        if not finished(folder):
            # Actors on a cluster that was there before don't work in this process's directory.
            _Run(config, folder.absolute(), runner, progress).go(plan)
        return Result(folder)
    except ConfigError:
        runner.stop()  # or who still works in a round makes the folder again
        if not resume and not _has_rounds(config, folder):
            storage.remove(folder)  # it was empty or not there: the mended config can have it again
        raise
    except KeyboardInterrupt:
        raise InterruptedRun(folder) from None
    except Exception as error:
        short = shortage.explained(error, storage.local_part(folder))
        if short is None:
            raise
        raise short from error
    finally:
        progress.close()
        runner.stop()
        lock.release()


def _has_rounds(config: RunConfig, folder: AnyPath) -> bool:
    """Whether a contender has finished any: what is wrong for the next may be mended and the run resumed."""
    return any(Checkpoints(folder, m.contender).finished() > 0 for m in config.methods)


class _Run:
    """One run in its folder; a class because lanes share what is below."""

    def __init__(self, config: RunConfig, folder: AnyPath, executor: Executor, progress: Progress) -> None:
        self.config, self.folder, self.executor, self.progress = config, folder, executor, progress
        self.clock = Clock(config)
        self._tables = threading.Lock()
        self._tables_due = 0.0

    def go(self, plan: federation.Plan) -> None:
        began = time.time()
        for entry in self.config.methods:
            Checkpoints(self.folder, entry.contender).finished()  # can it be resumed?
        self.progress.phase("preparing data")
        beside = ThreadPoolExecutor(1)
        try:
            building = beside.submit(federation.build, plan)
            self.executor.connect(self.config)
            data = federation.held_out(
                self.config, building.result()
            )  # the last that can be wrong with a config comes out here
            privacy.check_shards(self.config, [len(shard.train) for shard in data.shards])
            self.data, self.world = data, world(self.config, data)
            if fitting.trains_tokenizer(self.config):  # all else that models must fit is known to `check`
                fitting.check(self.config, self.world.interface, built=True)
            for method in [method_of(self.world, m.contender) for m in self.config.methods]:
                method.check_sizes()
                if not method.averages:  # how large a model is, is known where it is built
                    check_limit(method, 0)
        finally:
            beside.shutdown(wait=False)  # nobody who interrupts waits for the data
        if data.left_out:
            rows, window = len(plan.raw), self.config.data.window
            self.progress.note(
                f"{data.left_out:,} of {rows:,} rows are longer than data.window ({window}) and left out"
            )
        facts = manifest(self.world, data, began)
        take_over(self.folder, facts)
        self.progress.phase("starting actors")
        self.executor.start(self.config)
        results.write_json(self.folder / "manifest.json", facts)
        results.write_table(self.folder / "partition.parquet", "partition", _partition(data))
        self.progress.phase(
            "training the public start" if self.config.pretraining.steps else "handing out the data"
        )
        self.executor.prepare(self.world, data)
        self.progress.phase("running rounds")
        self._contenders()
        self._write_tables(now=True)
        facts.update(status="finished", finished=time.time(), wall_s=time.time() - began)
        results.write_json(self.folder / "manifest.json", facts)
        self.progress.phase("writing the report")
        from analysis.report import write

        write([self.folder], self.folder / "report.html")

    def _contenders(self) -> None:
        """Run all contenders, as many at a time as there are lanes."""
        stop = threading.Event()
        width = self.executor.lanes(self.config)
        if width == 1:  # in this thread: a signal interrupts the work itself
            for method in self.config.methods:
                self._contender(method.contender, 0, stop)
            return
        lanes: queue.SimpleQueue[int] = queue.SimpleQueue()
        for lane in range(width):
            lanes.put(lane)

        def contend(name: str) -> None:
            lane = lanes.get()
            try:
                if not stop.is_set():
                    self._contender(name, lane, stop)
            except BaseException:
                stop.set()  # the others end after the round they are in
                raise
            finally:
                lanes.put(lane)

        with ThreadPoolExecutor(width) as pool:
            futures = [pool.submit(contend, method.contender) for method in self.config.methods]
            try:
                errors = [e for e in (future.exception() for future in futures) if e is not None]
            except BaseException:  # a signal in the waiting thread
                stop.set()
                self.executor.halt()
                raise
        if errors:
            raise errors[0]

    def _contender(self, name: str, lane: int, stop: threading.Event) -> None:
        """All rounds of one contender that are not finished yet."""
        method, checkpoints = method_of(self.world, name), Checkpoints(self.folder, name)
        student = self.folder / "student"
        # Half a student must not be taken for a whole one; its card comes last.
        exports = name == product(self.config) and not (student / "README.md").exists()
        if checkpoints.finished() >= self.config.rounds and not exports:
            return
        contender = Contender(
            self.executor, method, lane, checkpoints, self.clock, self._written, self.progress.stops
        )
        if not contender.run(stop):
            return
        if exports:
            rows = results.summarise(*_scores(self.config, self.folder))
            card = model_card(self.world, self.data, next(r for r in rows if r["contender"] == name), rows)
            contender.export(storage.staged(student), card, self.data.tokenizer_json)
            storage.settle(student)
        self.executor.forget(name)

    def _written(self, row: Row) -> None:
        """A round is one of the finished ones."""
        self._write_tables()
        self.progress.round(row, self.config.rounds)

    def _write_tables(self, *, now: bool = False) -> None:
        """Make the tables of what the rounds left.

        While the run goes on, at most a hundredth of its time is spent on that.
        """
        with self._tables:  # lanes finish rounds at the same time
            began = time.monotonic()
            if not now and began < self._tables_due:
                return
            write_tables(self.config, self.folder)
            self._tables_due = time.monotonic() + 100 * (time.monotonic() - began)


def write_tables(config: RunConfig, folder: AnyPath) -> None:
    """Make a run's tables and summary of what its finished rounds left; whoever ends a run from outside does
    it too, since a run that goes on has them a little late."""
    rounds, alone = _scores(config, folder)
    results.write_table(folder / "rounds.parquet", "rounds", rounds)
    of_all = [Checkpoints(folder, m.contender).parts() for m in config.methods]
    results.merge_parts(folder, PARTS, itertools.chain(*of_all))
    results.write_json(folder / "summary.json", results.summarise(rounds, alone))
    give_back()


def _scores(config: RunConfig, folder: AnyPath) -> tuple[list[Row], list[Row]]:
    """Rows of the rounds table; and those of institutions on their own, where a contender is that."""
    rounds, alone = [], []
    for method in config.methods:
        checkpoints = Checkpoints(folder, method.contender)
        rounds += checkpoints.rounds()
        if not METHODS[method.name].trains_student:
            for part in checkpoints.parts():
                alone += results.read_part(part)["participants"].to_pylist()
    return rounds, alone


def product(config: RunConfig) -> str | None:
    """Whose student is exported: the first contender that distils or averages one, else the first
    that trains one at all."""
    trained = [m for m in config.methods if METHODS[m.name].trains_student]
    federated = [m for m in trained if METHODS[m.name].uses_participants]
    chosen = (federated or trained)[:1]
    return chosen[0].contender if chosen else None


def world(config: RunConfig, data: federation.Federation) -> World:
    interface = Interface(
        modality=data.modality,
        classes=data.classes,
        window=len(data.prompt_ids[0]) if data.prompt_ids else config.data.window,
        image_shape=data.image_shape,
        group_names=data.group_names,
        prompts=data.prompt_ids,
        vocabulary=tokenizers.size(data.tokenizer_json) if data.prompts and data.tokenizer_json else 0,
        end_of_text=data.end_of_text or 0,
    )
    text = data.modality == "text"
    return World(
        config=config,
        interface=interface,
        proxy_size=len(data.public.proxy),
        positions=config.data.window - 1 if text else 1,
        proxy_labelled=text or not {"labels", "input_ids"}.isdisjoint(data.public.proxy.arrays),
        sizes=tuple(len(shard.train) for shard in data.shards),
        plugins=plugins.read(config.plugins),
        exams=exams.read(config),
        tokenizer=data.tokenizer_json if text else None,
    )


def _partition(data: federation.Federation) -> list[Row]:
    return [
        {"participant": k, "group": name, "examples": int(data.distribution[k, g])}
        for k in range(len(data.shards))
        for g, name in enumerate(data.group_names)
    ]


def _executor(config: RunConfig) -> Executor:
    if config.runtime.executor == "in_process":
        return InProcess()
    from fedsim import runtime

    runtime.guard(config.runtime.address)
    from fedsim.runtime.executor import OnRay

    return OnRay()

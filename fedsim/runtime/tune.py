"""Trials on Ray Tune: each reserves all that it needs as one placement group, so they share a cluster.

A placement group is given whole or not at all, which is why trials can't block each other half placed.
A trial is an ordinary run in its own folder; Tune starts it, hears of its rounds, may stop it, and
starts it again after a failure, where the folder lets it continue.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from fedsim import plugins, simulation
from fedsim.config import RunConfig
from fedsim.disk import folders
from fedsim.disk.checkpoints import Checkpoints
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.progress import Quiet, Trials
from fedsim.results import Row
from fedsim.runtime import enter_directory
from fedsim.runtime.cluster import connect, inventory
from fedsim.runtime.packing import UNIT, Room
from fedsim.runtime.placement import bundles
from fedsim.runtime.reservation import wait_for
from fedsim.sweeps.config import SweepConfig
from fedsim.sweeps.states import State, finished, mark, rounds, score
from fedsim.sweeps.trials import Trial, last_stop
from fedsim.types import METRICS

Bundle = dict[str, float]

_HOSTS = 2
"""Actors that the participants of a trial share, unless `runtime.participants_per_actor` says more."""


def compact(config: RunConfig) -> RunConfig:
    """The run as a trial: few hosts, so that many trials fit and little time goes into starting them."""
    runtime = config.runtime
    if runtime.executor == "in_process" or runtime.participants_per_actor != "auto":
        return config
    each = -(-config.participants.count // _HOSTS)
    return config.model_copy(update={"runtime": runtime.model_copy(update={"participants_per_actor": each})})


def reserved(config: RunConfig, room: Room) -> list[Bundle]:
    """What a compact run reserves: first its own process, then coordinators with their ranks, hosts.

    Raises ConfigError for a trial that the cluster can't hold even when it is empty: Tune would wait.
    """
    if config.runtime.executor == "in_process":
        threads, most = config.runtime.threads, max(node.total.cpus for node in room.nodes) / UNIT
        if threads > most and not config.runtime.wait_s:
            raise ConfigError("runtime.threads", threads, f"at most {most:g}: {room.describe()}")
        return [{"CPU": float(threads)}]
    return bundles(config, room)


def execute(sweep: SweepConfig, trials: Sequence[Trial], left: Sequence[Trial], progress: Trials) -> None:
    """Run the trials that are left; `trials` are all, of which the scheduler hears what is known.

    What becomes of a trial is in its folder and its mark. Raises ConfigError before anything starts.
    """
    _quieten()
    callbacks, scheduler = [_TRACKERS[name](sweep) for name in sweep.trackers], _scheduler(sweep, trials)
    cluster = connect(left[0].config)
    try:
        room = inventory()
        found = {trial.name: fitted(trial, room) for trial in left}
        runs = {name: config for name, (config, _) in found.items()}
        needs = {name: reserves for name, (_, reserves) in found.items()}
        _wait_for_machines(runs, needs, progress)
        _tell(scheduler, [t for t in trials if t.name not in runs or folders.finished(t.config.folder)])
        progress.phase(f"{len(left)} trials")
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(
                    _trial,
                    runs=runs,
                    contenders={t.name: t.contender for t in left},
                    plugged={name: plugins.read(config.plugins) for name, config in runs.items()},
                    shadows=sweep.attack,
                    stops=scheduler is not None,
                ),
                lambda variant: tune.PlacementGroupFactory(needs[variant["trial"]["name"]]),
            ),
            param_space={"trial": tune.grid_search([{"name": t.name, **t.plain} for t in left])},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=sweep.max_concurrent,
                reuse_actors=True,  # a process has imported what a trial needs after its first
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(sweep.folder),
                failure_config=tune.FailureConfig(max_failures=sweep.retries),
                callbacks=[_Watch({t.name: t for t in left}, sweep.retries, progress), *callbacks],
                verbose=0,
            ),
        ).fit()
    finally:
        cluster.close()


def fitted(trial: Trial, room: Room) -> tuple[RunConfig, list[Bundle]]:
    """A trial's run, compact or where that finds no place as its config says, and what it reserves."""
    few = compact(trial.config)
    try:
        return few, reserved(few, room)
    except ConfigError:
        try:
            return trial.config, reserved(trial.config, room)
        except ConfigError as error:
            raise ConfigError(f"trial {trial.name}: {error.field}", error.value, error.expected) from None


def _wait_for_machines(
    runs: Mapping[str, RunConfig], needs: Mapping[str, list[Bundle]], progress: Trials
) -> None:
    """Let the cluster grow until it can hold each trial, if alone: for one that it never can hold Tune would
    wait for ever, and say nothing. Raises ConfigError when the time is up."""
    seen: list[list[Bundle]] = []
    for name, config in runs.items():
        if config.runtime.wait_s and needs[name] not in seen:
            if not seen:
                progress.phase("waiting for machines")
            wait_for(needs[name], config.runtime.wait_s, f"trial {name}")
            seen.append(needs[name])


def _trial(
    variant: dict[str, Any],
    runs: Mapping[str, RunConfig],
    contenders: Mapping[str, str],
    plugged: Mapping[str, Mapping[str, str]],
    shadows: int | None,
    stops: bool,
) -> None:
    """A trial's process: run, or resume what an earlier attempt left in its folder; then attack it."""
    enter_directory()
    name = variant["trial"]["name"]
    plugins.load(plugged[name])
    config, contender = runs[name], contenders[name]
    begun = (config.folder / "config.yaml").exists()
    if begun and not folders.finished(config.folder):  # where only the attack is left, no round can be saved
        for row in _known_rounds(config.folder, contender):
            _report(row)
    simulation.run(config, resume=begun, progress=_Reports(contender, stops))
    if shadows is not None:
        from fedsim.attacks.run import attack

        attack(config.folder, contender, shadows)


class _Reports(Quiet):
    """Tells Tune of every round of the contender that is compared."""

    def __init__(self, contender: str, stops: bool) -> None:
        self._contender, self.stops = contender, stops

    def round(self, row: Row, rounds: int) -> None:
        if row["method"] == self._contender:
            _report(row)


def _report(row: Row) -> None:
    if row["score"] == row["score"]:  # not every round is evaluated
        tune.report({c: row[c] for c in ("round", "score", "loss", "bytes_up", "bytes_down", "virtual_s")})


def _known_rounds(folder: AnyPath, contender: str) -> list[Row]:
    """The finished rounds of a contender, without the start."""
    return [row for row in Checkpoints(folder, contender).rounds() if row["round"]]


class _Watch(tune.Callback):  # type: ignore[misc]
    """Remembers what becomes of the trials, and shows it."""

    def __init__(self, trials: Mapping[str, Trial], retries: int, progress: Trials) -> None:
        self._trials, self._retries, self._progress = trials, retries, progress
        self._began: dict[str, float] = {}
        self._rounds = {name: rounds(trial) for name, trial in trials.items()}
        self._looked = time.monotonic()
        self._show()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its callbacks down, for a restore that is not used

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._began.setdefault(_name(trial), time.monotonic())
        self._progress.running(len(self._began))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours, seconds = self._trials[_name(trial)], self._took(trial)
        ended = finished(ours)
        if not ended:  # stopped in the middle: its tables may not have its last round yet
            simulation.write_tables(ours.config, ours.config.folder)
        row = score(ours)
        reached = f"{row['metric']} {row['score']:.4g}" if row else "no score"
        if ended:
            self._progress.ended(f"{ours.name}: {reached}, {seconds:.1f} s")
        else:
            reason = f"by the scheduler after round {(trial.last_result or {}).get('round')}"
            mark(ours, State("stopped", reason))
            self._progress.ended(f"{ours.name}: stopped {reason}, {reached}, {seconds:.1f} s")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        again = f"attempt {trial.num_failures + 1} of {self._retries + 1} follows"
        self._progress.phase(f"{_name(trial)} failed: {_reason(trial)}; {again}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours, seconds = self._trials[_name(trial)], self._took(trial)
        mark(ours, State("failed", _reason(trial)))
        self._progress.ended(f"{ours.name}: failed: {_reason(trial)}, {seconds:.1f} s")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked >= self._progress.pause:
            self._looked = time.monotonic()
            self._rounds |= {name: rounds(self._trials[name]) for name in self._began}
            self._show()

    def _show(self) -> None:
        done, wanted = map(sum, zip(*self._rounds.values(), strict=True))
        self._progress.working(done, wanted)

    def _took(self, trial: Any) -> float:
        took = time.monotonic() - self._began.pop(_name(trial), time.monotonic())
        self._rounds[_name(trial)] = (self._rounds[_name(trial)][1],) * 2  # none left, however it ended
        self._progress.running(len(self._began))
        return took


def _name(trial: Any) -> str:
    """Our name of one of Tune's trials."""
    return str(trial.config["trial"]["name"])


def _reason(trial: Any) -> str:
    """Why a trial failed, in one line, from the text that Tune keeps of each failure, one after the other.

    Below a traceback stands what was raised; without one Ray says what became of the process.
    """
    try:
        said = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):  # there is none
        return "it ended without a reason"
    lines = said.rpartition("\nFailure # ")[2].splitlines()[1:]
    frames = [place for place, line in enumerate(lines[:-1]) if line.startswith("  ")]
    if not frames:
        return lines[0].strip() if lines else "it ended without a reason"
    kind, _, text = lines[frames[-1] + 1].partition(": ")
    return text.strip() or kind


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _scheduler(sweep: SweepConfig, trials: Sequence[Trial]) -> TrialScheduler | None:
    if sweep.scheduler.kind == "fifo":
        return None
    metric = METRICS[trials[0].config.data.reads or "text"]  # of all: see `sweeps.trials.check`
    return ASHAScheduler(
        time_attr="round",
        metric="score",
        mode="max" if metric.higher_is_better else "min",
        max_t=last_stop(trials),
        grace_period=sweep.scheduler.grace_rounds,
        reduction_factor=sweep.scheduler.reduction_factor,
        stop_last_trials=False,
    )


def _tell(scheduler: TrialScheduler | None, trials: Iterable[Trial]) -> None:
    """Let a scheduler know the rounds of trials that ended before this process began."""
    if scheduler is None:
        return
    for trial in trials:
        earlier = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(None, earlier)
        for row in _known_rounds(trial.config.folder, trial.contender):
            if row["score"] == row["score"]:
                scheduler.on_trial_result(None, earlier, row)


def _tensorboard(sweep: SweepConfig) -> tune.Callback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(sweep: SweepConfig) -> tune.Callback:
    _need("mlflow", "mlflow-skinny")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError("trackers", "mlflow", "MLFLOW_TRACKING_URI in the environment, e.g. a server's URL")
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise ConfigError("MLFLOW_TRACKING_URI", uri, f"a store that answers ({_line(error)})") from None
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=sweep.name)


def _wandb(sweep: SweepConfig) -> tune.Callback:
    _need("wandb", "wandb")
    from ray.air.integrations.wandb import WandbLoggerCallback

    callback = WandbLoggerCallback(project=sweep.name)
    try:
        callback.setup()  # Tune would do so when all has begun
    except ValueError:  # it finds no key
        expected = "a login (`wandb login`), or WANDB_MODE=offline in the environment"
        raise ConfigError("trackers", "wandb", expected) from None
    return callback


_TRACKERS: dict[str, Callable[[SweepConfig], tune.Callback]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _need(tracker: str, package: str) -> None:
    if find_spec(tracker) is None:
        raise ConfigError("trackers", tracker, f"an installed tracker: pip install {package}")


def _quieten() -> None:
    """Tune's own output off, its handling of Ctrl-C too, and its habit of changing directories."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is said by `_Watch`
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        RAY_AIR_NEW_OUTPUT="0",  # the new one prints a banner even at verbosity 0
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
    )

"""A whole sweep in its folder: check all trials, run those that are left, one table, one report.

    sweep.yaml             the resolved sweep
    trials/<trial>/        the folder of every run, as `fedsim run` leaves it
    states/<trial>.json    of a trial that was stopped early or failed: that, and why
    trials.parquet         one row per trial: `Outcome.table`
    report.html            the finished trials as pictures
    tune/                  what Ray Tune keeps, with the files for TensorBoard

The folders are the truth about what is done. A sweep that goes on therefore submits the trials that
are not finished, and each resumes at its last finished round; Tune's own snapshots are not read. They
lag behind the folders by seconds, know nothing of rounds, and can't be read by another version of Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedsim import results, simulation
from fedsim.disk import folders, storage
from fedsim.disk.checkpoints import hold
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.progress import Trials
from fedsim.sweeps import config as sweep_configs
from fedsim.sweeps.config import DECIDES, SweepConfig
from fedsim.sweeps.states import State, Status, attacked, score, state, summary, taken_in
from fedsim.sweeps.trials import Trial, check, expand

if TYPE_CHECKING:
    import pandas as pd


class Outcome:
    """A sweep's folder and what became of its trials."""

    def __init__(self, folder: AnyPath, trials: Sequence[Trial]) -> None:
        self.folder, self.trials = folder, trials
        self.states = {trial.name: state(trial) for trial in trials}

    @property
    def report(self) -> AnyPath | None:
        """The report, where a trial has finished."""
        path = self.folder / "report.html"
        return path if path.exists() else None

    @property
    def failed(self) -> dict[str, str]:
        """Trials that failed for good → why."""
        return {name: s.reason for name, s in self.states.items() if s.status == "failed"}

    def having(self, status: Status) -> list[Trial]:
        return [trial for trial in self.trials if self.states[trial.name].status == status]

    @property
    def best(self) -> tuple[Trial, dict[str, Any]] | None:
        """The finished trial with the best score and its row of the summary; None where scores are of
        different metrics."""
        scored = [(trial, row) for trial in self.having("finished") if (row := score(trial)) is not None]
        if len({row["metric"] for _, row in scored}) != 1:
            return None
        sign = 1 if scored[0][1]["higher_is_better"] else -1
        return max(scored, key=lambda pair: sign * pair[1]["score"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per trial.

        trial, status, reason; `axis.<axis>` its value there (what is no scalar as YAML); rounds, score,
        bytes_up, bytes_down, virtual_s of the contender that is compared; `score.<contender>` of each;
        wall_s of all rounds of all contenders; `auc.<target>` of the best attack, `attack_success` of a
        backdoor. Of a trial that is not finished, as far as it came.
        """
        import pandas as pd

        table = pd.DataFrame([_row(trial, self.states[trial.name]) for trial in self.trials])
        for column in table.columns:
            if column.startswith("axis.") and table[column].map(type).nunique() > 1:
                table[column] = table[column].map(str)  # a column of a file has one type
        return table


def run(sweep: SweepConfig, *, resume: bool = False) -> Outcome:
    """Run a sweep to its end, or continue it in its folder.

    Finished and stopped trials are not touched; failed ones are tried again. Trials that fail do not end
    a sweep: see `Outcome.failed`. Raises ConfigError for what the user can mend, before anything starts.
    """
    folder = sweep.folder if resume or sweep.output else folders.free(sweep.folder)
    folders.check_lasts(folder)
    folder = folder.absolute()  # workers have working directories of their own
    sweep = sweep.model_copy(update={"output": str(folder)})
    trials = expand(sweep)
    check(trials, sweep.scheduler)
    with folders.usable(folder, resume):
        _open(sweep, resume)
        lock = hold(folder)
    left = [trial for trial in trials if state(trial).status not in ("finished", "stopped")]
    progress = Trials(len(trials), len(trials) - len(left))
    try:
        if left:
            from fedsim import runtime

            if (folder / "trials.parquet").exists():  # who looks meanwhile sees what the folders say
                (folder / "trials.parquet").unlink()
            runtime.guard(left[0].config.runtime.address)
            from fedsim.runtime.tune import execute

            try:
                execute(sweep, trials, left, progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"fedsim sweep --resume {folder} continues the sweep") from None
        progress.phase("writing the report")
        return _conclude(sweep.name, folder, trials)
    except ConfigError:
        if not resume and not (folder / "trials").exists():
            storage.remove(folder)  # nothing has started: the mended sweep can have it
        raise
    finally:
        progress.close()
        lock.release()


def _open(sweep: SweepConfig, resume: bool) -> None:
    """Make the sweep's folder, or see that an earlier one is of the same sweep."""
    folder, saved = sweep.folder, sweep.folder / "sweep.yaml"
    if resume:
        if not saved.exists():
            raise ConfigError("resume", str(folder), "the folder of an earlier sweep (it holds sweep.yaml)")
        before, now = sweep_configs.load(saved).model_dump(mode="json"), sweep.model_dump(mode="json")
        for field in DECIDES:
            difference = folders.first_difference(before[field], now[field], field)
            if difference:
                where, was, wanted = difference
                raise ConfigError(f"resume: {where}", wanted, f"{was!r}, as the sweep began")
        return
    folders.make(folder, "sweep")
    results.write_text(saved, sweep_configs.to_yaml(sweep))


def _conclude(name: str, folder: AnyPath, trials: Sequence[Trial]) -> Outcome:
    """The table of all trials, and the report where one has finished."""
    outcome = Outcome(folder, trials)
    storage.write(folder / "trials.parquet", outcome.table.to_parquet)
    if outcome.having("finished"):
        from analysis.report import write

        write(folder, folder / "report.html", title=name)
    return outcome


def _row(trial: Trial, state: State) -> results.Row:
    row: results.Row = {"trial": trial.name, "status": state.status, "reason": state.reason}
    row |= {f"axis.{axis}": value for axis, value in trial.plain.items()}
    compared = score(trial) or {}
    row |= {column: compared.get(column) for column in ("score", "bytes_up", "bytes_down", "virtual_s")}
    if compared:
        rounds = simulation.Result(trial.config.folder).rounds
        row["rounds"] = int(rounds.loc[rounds.method == trial.contender, "round"].max())
        row["wall_s"] = float(rounds.wall_s.sum())
    row["attack_success"] = taken_in(trial)
    row |= {f"auc.{target}": auc for target, auc in attacked(trial).items()}
    return row | {f"score.{other['contender']}": other["score"] for other in summary(trial)}

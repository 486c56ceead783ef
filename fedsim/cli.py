"""The command line: thin, everything it does is a function of the package.

Exit status: 0 done; 1 something happened on the way (the folder can be resumed); 2 the user can mend it
(a wrong field, a missing file or library), said in one line; 130 or 143 interrupted by SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim import config as configs
from fedsim import extras, loading, shortage
from fedsim.config import RunConfig, trees
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError, FedsimError, NotInstalledError, RunError
from fedsim.interrupt import Interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parsed(arguments)
    interrupts = Interrupts()
    try:
        with interrupts:
            if options.runs:
                extras.require_run(options.name)
            return int(options.command(options))
    except (ConfigError, NotInstalledError) as error:
        print(f"fedsim: {error}", file=sys.stderr)
        return 2
    except FedsimError as error:
        print(f"fedsim: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("fedsim: " + "; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        sys.stdout.flush()
        os._exit(interrupts.status)  # all is stopped; a thread that still reads data need not end first


def _run(options: argparse.Namespace) -> int:
    from fedsim import progress, results, simulation

    config = _config(options)
    contenders = [method.contender for method in config.methods]
    shown = progress.best(contenders, config.rounds)
    result = simulation.run(config, resume=options.resume is not None, progress=shown)
    summary: list[results.Row] = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    print()
    print(progress.table(summary))
    print(f"report   {result.report}")
    if result.student.exists():
        print(f"student  {result.student}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from fedsim import sweeps

    path, overrides = _source(options, "sweep.yaml", "experiments/sweeps/quick.yaml")
    sweep = sweeps.load(path, quick=options.quick, **overrides)
    outcome = sweeps.run(sweep, resume=options.resume is not None)
    counts = [(s, len(outcome.having(s))) for s in ("finished", "stopped", "failed", "unfinished")]
    print(f"\n{len(outcome.trials)} trials: " + ", ".join(f"{n} {status}" for status, n in counts if n))
    if found := sweeps.over_seeds(outcome):
        print(f"\n{found}\n")
    if outcome.best:
        trial, row = outcome.best
        print(f"best     {trial.name}: {row['contender']} {row['metric']} {row['score']:.4g}")
    print(f"table    {outcome.folder / 'trials.parquet'}")
    if outcome.report:
        print(f"report   {outcome.report}")
    for name, reason in outcome.failed.items():
        print(f"fedsim: trial {name} failed: {reason}", file=sys.stderr)
    return 1 if outcome.failed or outcome.having("unfinished") else 0


def _validate(options: argparse.Namespace) -> int:
    from fedsim import simulation, sweeps

    if options.config is not None and sweeps.is_sweep(options.config):
        path, overrides = _source(options, "sweep.yaml", "experiments/sweeps/quick.yaml")
        sweep = sweeps.load(path, **overrides)
        trials = sweeps.expand(sweep)
        sweeps.check(trials, sweep.scheduler)
        print(f"{options.config}: valid. {len(trials)} trials, {trials[0].name} to {trials[-1].name}")
        return 0
    config = _config(options)
    plan = simulation.check(config)
    sizes = [len(train) for train, _ in plan.shards]
    print(f"{options.config}: valid. {len(sizes)} participants with {min(sizes)} to {max(sizes)} examples;")
    print(f"contenders: {', '.join(method.contender for method in config.methods)}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from analysis import report
    from analysis.load import AnalysisError, load

    folders = [storage.locate(folder, "report") for folder in options.folders]
    target = _target(options.output) if options.output else folders[0] / "report.html"
    try:
        text = report.render(load(folders, strict=False))
    except AnalysisError as error:
        raise ConfigError("report", [str(f) for f in folders], f"folders of runs ({error})") from None
    _write(target, text)
    print(target)
    return 0


def _table(options: argparse.Namespace) -> int:
    from analysis import export, markdown, outcomes, tables
    from analysis.load import SUMMARY, AnalysisError, load

    if not 0 < options.target <= 1:
        raise ConfigError("--target", options.target, "a share of the centralised score, above 0 up to 1")
    folders = [storage.locate(folder, "table") for folder in options.folders]
    target = _target(options.output) if options.output else None
    try:
        if options.format == "markdown":
            text = markdown.document(folders, options.target)
        else:
            whole = options.format == "csv"
            read = load(folders, columns=outcomes.READ if whole else {"summary": SUMMARY})
            summary = outcomes.per_run(read, options.target) if whole else read.summary
            text = export.FORMATS[options.format](tables.contenders(summary))
    except AnalysisError as error:
        raise ConfigError("table", [str(f) for f in folders], f"folders of runs ({error})") from None
    if target is None:
        print(text, end="")
    else:
        _write(target, text)
    return 0


def _target(text: str) -> AnyPath:
    """Where `--output` says that a file is to be; looked at before there is anything to write."""
    target = storage.locate(text, "--output")
    with _writable(target):
        if target.is_dir():
            raise ConfigError("--output", text, "a file, not a folder")
        if isinstance(target, Path) and target.exists() and not target.is_file():
            raise ConfigError("--output", text, "a plain file: a device would be replaced by it")
        if isinstance(target, Path) and not target.parent.is_dir():  # behind a URI folders come by themselves
            raise ConfigError("--output", text, "a file in a folder that is there")
    return target


def _write(target: AnyPath, text: str) -> None:
    from fedsim import results

    with _writable(target):
        results.write_text(target, text)


@contextmanager
def _writable(target: AnyPath) -> Iterator[None]:
    """Say as an error of `--output` why a file can't be written."""
    try:
        yield
    except (OSError, RunError) as error:
        if shortage.disk_full(error, storage.local_part(target).parent):
            raise ConfigError("--output", str(target), "a file on a disk that has room") from None
        detail = (error.strerror if isinstance(error, OSError) else None) or shortage.first_line(error)
        raise ConfigError("--output", str(target), f"a file that can be written ({detail})") from None


def _attack(options: argparse.Namespace) -> int:
    from fedsim import progress, results
    from fedsim.attacks import run

    folder = storage.locate(options.folder, "attack")
    rows = run.attack(folder, options.contender, options.shadows, progress.Lines())
    print(f"\n{run.table(rows)}\n\ntable    {folder / 'attacks.parquet'}")
    labels = folder / "labels.parquet"
    if told := run.label_table(results.rows(labels)):
        print(f"\n{told}\n\ntable    {labels}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from fedsim.doctor import examine

    return examine()


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(configs.json_schema(), indent=2))
    return 0


def _config(options: argparse.Namespace) -> RunConfig:
    path, overrides = _source(options, "config.yaml", "experiments/quickstart.yaml")
    return loading.load(path, **overrides)


def _source(options: argparse.Namespace, saved: str, example: str) -> tuple[str | AnyPath, dict[str, Any]]:
    """The file to read and the overrides; with --resume the file that the folder keeps, if none is named."""
    folder, path, texts = getattr(options, "resume", None), options.config, options.overrides
    if folder is not None and path is not None and "=" in path:
        path, texts = None, [path, *texts]  # with --resume the config can be left out
    overrides = dict(trees.parse_override(text) for text in texts)
    if folder is not None:
        overrides["output"] = folder
    if path is not None:
        return path, overrides
    if folder is None:
        raise ConfigError("config", None, f"a YAML file, e.g. {example}")
    kept = storage.locate(folder, "resume") / saved
    if not kept.exists():
        raise ConfigError("resume", folder, f"the folder of an earlier {options.name} (it holds {saved})")
    return kept, overrides


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Overrides may also stand behind an option, where argparse doesn't look for them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or "=" not in text]
    if rest and (unknown or not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedsim", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, help: str, *, runs: bool = False) -> argparse.ArgumentParser:
        """runs: whether it needs more than looking at results does."""
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=command, name=name, runs=runs)
        return sub

    run = add("run", _run, "run a config, or continue a run", runs=True)
    run.add_argument("config", nargs="?", help="YAML file, e.g. experiments/quickstart.yaml")
    run.add_argument("overrides", nargs="*", metavar="field=value", help="e.g. rounds=2 participants.count=8")
    run.add_argument("--resume", metavar="FOLDER", help="continue the run in this folder")
    sweep = add("sweep", _sweep, "run the trials of a sweep side by side, or continue a sweep", runs=True)
    sweep.add_argument("config", nargs="?", help="YAML file, e.g. experiments/sweeps/quick.yaml")
    sweep.add_argument(
        "overrides", nargs="*", metavar="field=value", help="e.g. set.rounds=2 max_concurrent=2"
    )
    sweep.add_argument("--quick", action="store_true", help="the smaller form that the file describes")
    sweep.add_argument("--resume", metavar="FOLDER", help="continue the sweep in this folder")
    validate = add("validate", _validate, "check a config or a sweep without starting anything", runs=True)
    validate.add_argument("config")
    validate.add_argument("overrides", nargs="*", metavar="field=value")
    report = add("report", _report, "build one HTML report from run folders")
    report.add_argument("folders", nargs="+", metavar="FOLDER", help="of a run or a sweep, or a URI")
    report.add_argument("-o", "--output", help="HTML file; FOLDER/report.html of the first if absent")
    table = add("table", _table, "print what the contenders reached: text, LaTeX, CSV, or all in Markdown")
    table.add_argument("folders", nargs="+", metavar="FOLDER", help="of a run or a sweep, or a URI")
    table.add_argument("--format", choices=("text", "latex", "csv", "markdown"), default="text")
    table.add_argument("--target", type=float, default=0.95, metavar="SHARE",
                       help="of the centralised score, for bytes and rounds to target; 0.95")  # fmt: skip
    table.add_argument("-o", "--output", help="file to write; the terminal if absent")
    attack = add("attack", _attack, "try to tell who was in the training data of a finished run", runs=True)
    attack.add_argument("folder", metavar="FOLDER")
    attack.add_argument("--contender", metavar="NAME", help="whose; that of the exported student if absent")
    attack.add_argument("--shadows", type=int, default=16, help="runs to learn from, an even number; 16")
    add("doctor", _doctor, "check the installation and say how to mend what is missing")
    add("schema", _schema, "print the JSON schema of the config, for editors")
    return parser

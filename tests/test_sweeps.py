"""Sweeps before they run: what a file expands to, how trials are called, what is refused and how."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsim import results, simulation, sweeps
from fedsim.cli import main
from fedsim.errors import ConfigError
from fedsim.executor import InProcess
from fedsim.sweeps import states
from fedsim.sweeps.config import is_sweep, to_yaml
from fedsim.sweeps.run import _conclude
from fedsim.sweeps.trials import _labels

BASE: dict[str, Any] = {
    "data": {"source": "digits", "max_examples": 120},
    "participants": {"count": 2, "models": ["vit-micro"], "partition": {"minimum": 2}},
    "student": {"model": "vit-micro"},
    "methods": ["federated_distillation", "centralized"],
}
UNEVEN = {"low": {"participants.partition.alpha": 10}, "high": {"participants.partition.alpha": 0.1}}
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SWEEPS = sorted(path for path in EXPERIMENTS.glob("*/*.yaml") if is_sweep(path))


@pytest.fixture
def write(tmp_path: Path):
    """`write(space=…, …)`: a sweep's file over BASE."""

    def write(**tree: Any) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, **tree}, sort_keys=False))
        return path

    return write


def expand(path: Path, **overrides: Any) -> list[sweeps.Trial]:
    return sweeps.expand(sweeps.load(path, **overrides))


# Expansion -----------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_the_last_axis_changes_fastest(write):
    path = write(space={"participants.count": [2, 3], "seed": [0, 1, 2]}, scenarios={"heterogeneity": UNEVEN})
    trials = expand(path)
    assert len(trials) == 12
    assert trials[0].axes == {"heterogeneity": "low", "participants.count": 2, "seed": 0}
    assert [t.axes["seed"] for t in trials[:4]] == [0, 1, 2, 0]
    last = trials[-1]
    assert last.name == "0012-heterogeneity=high-count=3-seed=2"
    assert (last.config.participants.count, last.config.seed) == (3, 2)
    assert last.config.participants.partition.alpha == 0.1
    assert last.config.folder == Path("sweeps/mine/trials") / last.name
    assert last.contender == "federated_distillation"


def test_an_option_sets_several_fields_nested_or_dotted(write):
    trials = expand(
        write(
            set={"participants": {"training": {"steps": 3}}, "rounds": 2},
            scenarios={"devices": {"none": {}, "slow": {"student": {"device": {"flops_per_s": 1e9}},
                                                        "participants.deadline_s": 5}}},
        )
    )  # fmt: skip
    plain, slow = (trial.config for trial in trials)
    assert plain.participants.training.steps == slow.participants.training.steps == 3
    assert plain.participants.models == ("vit-micro",), "what is beside a nested field stays"
    assert plain.participants.deadline_s is None
    assert (slow.student.device.flops_per_s, slow.participants.deadline_s) == (1e9, 5)


def test_what_is_set_for_all_can_be_refined_by_an_axis(write):
    distil = {"name": "federated_distillation", "task": 0}
    trials = expand(write(set={"methods": [distil]}, space={"methods.0.sharpen": [1, 2]}))
    assert [t.config.methods[0].options for t in trials] == [
        {"task": 0, "sharpen": 1},
        {"task": 0, "sharpen": 2},
    ]


def test_a_base_is_found_beside_the_sweep_and_kept_in_what_is_written(write, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "base.yaml").write_text(yaml.safe_dump({**BASE, "rounds": 7}))
    sweep = sweeps.load(write(base="runs/base.yaml", space={"seed": [0, 1]}, scheduler="asha"))
    assert sweep.base["rounds"] == 7
    (tmp_path / "elsewhere.yaml").write_text(to_yaml(sweep))
    assert sweeps.load(tmp_path / "elsewhere.yaml") == sweep


def test_random_draws_stay_in_their_range_and_repeat_with_the_seed(write):
    path = write(
        search="random", trials=40, scenarios={"heterogeneity": UNEVEN},
        space={"student.training.learning_rate": {"loguniform": [1e-4, 1e-2]},
               "methods.0.digest": {"uniform": [0, 1]}},
    )  # fmt: skip
    trials = expand(path)
    rates = [t.config.student.training.learning_rate for t in trials]
    assert len(set(rates)) == 40 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 8 <= sum(rate < 1e-3 for rate in rates) <= 32, "half of the draws in each order of magnitude"
    assert all(0 <= t.config.methods[0].options["digest"] <= 1 for t in trials)
    assert {t.axes["heterogeneity"] for t in trials} == {"low", "high"}
    assert all(str(t.axes["student.training.learning_rate"]) in t.name for t in trials)
    again, others = expand(path), expand(path, seed=1)
    assert [t.axes for t in again] == [t.axes for t in trials]
    assert all(
        a.axes["methods.0.digest"] != b.axes["methods.0.digest"] for a, b in zip(trials, others, strict=True)
    )


def test_an_axis_more_leaves_the_draws_of_the_others_alone(write):
    space = {"student.training.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    few = expand(write(search="random", trials=5, space=space))
    more = expand(write(search="random", trials=5, space={**space, "methods.0.digest": {"uniform": [0, 1]}}))
    axis = "student.training.learning_rate"
    assert [t.axes[axis] for t in few] == [t.axes[axis] for t in more]


def test_random_over_lists_is_a_part_of_the_grid_without_repeats(write):
    path = write(space={"participants.count": [1, 2, 3], "seed": [0, 1, 2]})
    drawn = expand(path, search="random", trials=9)
    grid = expand(path)
    assert sorted(map(str, (t.axes for t in drawn))) == sorted(map(str, (t.axes for t in grid)))
    with pytest.raises(ConfigError, match="no more combinations"):
        expand(path, search="random", trials=10)


# Names ---------------------------------------------------------------------------------------------


def test_labels_are_as_short_as_they_can_be():
    assert _labels(["seed", "participants.training.steps", "student.training.steps"]) == {
        "seed": "seed",
        "participants.training.steps": "participants.steps",
        "student.training.steps": "student.steps",
    }
    assert _labels(["methods.0.task", "methods.1.task", "participants.count"]) == {
        "methods.0.task": "0.task",
        "methods.1.task": "1.task",
        "participants.count": "count",
    }
    assert _labels(["steps", "student.training.steps"]) == {
        "steps": "steps", "student.training.steps": "training.steps",
    }  # fmt: skip


def test_names_are_safe_and_bounded(write, tmp_path):
    model = "a folder/with: odd*names/" + "x" * 200
    links = [[{"up_mbps": 1}], [{"up_mbps": 2}]]
    trials = expand(
        write(space={"student.model": [model, "vit-micro"], "participants.links": links,
                     "participants.models": [["vit-micro", "vit-tiny"]], "data.proxy_labelled": [True]})
    )  # fmt: skip
    names = [trial.name for trial in trials]
    assert len(set(names)) == 4 and all(len(name) <= 96 for name in names)
    assert all(re.fullmatch(r"[A-Za-z0-9.=_+-]+", name) for name in names), names
    assert names[3] == "0004-model=vit-micro-links=v1-models=vit-micro+vit-tiny-proxy_labelled=true"


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "field", "expected"),
    [
        ({}, "config", "something must vary"),
        ({"space": {"seed": 3}}, "space.seed", "a list of values, {uniform: [low, high]}"),
        ({"space": {"seed": []}}, "space.seed", "at least 1"),
        ({"space": {"seed": {"normal": [0, 1]}}}, "space.seed.normal", "one of loguniform, uniform"),
        (
            {"space": {"seed": {"loguniform": [0, 1]}}, "search": "random", "trials": 1},
            "space.seed",
            "above 0",
        ),
        ({"space": {"seed": {"uniform": [0, 1]}}}, "space.seed", "or search: random"),
        ({"space": {"seed": [0]}, "search": "random"}, "trials", "a number of trials"),
        ({"space": {"seed": [0]}, "trials": 3}, "trials", "the grid decides"),
        ({"space": {"seed": [0]}, "schedular": "asha"}, "schedular", "did you mean scheduler?"),
        ({"spce": {"seed": [0]}}, "spce", "did you mean space?"),
        ({"space": {"seed": [1, 2, 1]}}, "space.seed", "every value once: 1 would"),
        ({"space": {"methods": [["solo"], ["solo"]]}}, "space.methods", "every value once: ['solo'] would"),
        ({"space": {"seed": [0]}, "scheduler": "asah"}, "scheduler.kind", "'fifo' or 'asha'"),
        ({"space": {"seed": [0]}, "trackers": ["comet"]}, "trackers.0", "'tensorboard', 'mlflow' or 'wandb'"),
        ({"space": {"seed": [0]}, "set": {"seed": 1}}, "space.seed", "that set doesn't set too"),
        (
            {"space": {"participants": [{}]}, "scenarios": {"alpha": UNEVEN}},
            "space.participants",
            "that scenarios.alpha doesn't",
        ),
        ({"space": {"output": ["a", "b"]}}, "space.output.output", "another field"),
        ({"space": {"seed": [0]}, "base": 3}, "base", "the path of a run config"),
        ({"space": {"seed": [0]}, "base": "nowhere.yaml"}, "config", "an existing YAML file"),
    ],
)
def test_a_wrong_sweep_names_the_field(write, tree, field, expected):
    with pytest.raises(ConfigError) as error:
        sweeps.load(write(**tree))
    assert error.value.field == field
    assert expected in error.value.expected


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"space": {"seed": [0, -1]}},
            "trial 0002-seed=-1: seed: -1 is not valid; expected greater than or equal to 0",
        ),
        ({"scenarios": {"a": {"b": {"participants.cuont": 1}}}}, "trial 0001-a=b: participants.cuont"),
        ({"scenarios": {"student": {"b": {"rounds": 1}}}}, "expected another name for scenario student"),
        ({"space": {"methods.0.taks": [1]}}, "(did you mean task?)"),
        (
            {"space": {"methods": [["solo"], ["centralized"]]}, "metric": "solo"},
            "metric: 'solo' is not valid; expected one of trial 0002-methods=centralized: centralized",
        ),
    ],
)
def test_a_wrong_trial_is_named(write, tree, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        expand(write(**tree))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"student.model": ["vit-micro", "llama-tiny"]},
            "trial 0002-model=llama-tiny: student.model: 'llama-tiny'",
        ),
        ({"participants.partition.minimum": [2, 1000]}, "trial 0002-minimum=1000: participants."),
    ],
)
def test_every_trials_models_and_data_are_checked(write, space, message):
    trials = expand(write(space=space))
    sweeps.check(trials[:1])
    with pytest.raises(ConfigError, match=re.escape(message)):
        sweeps.check(trials)


def test_equal_data_is_planned_once(write, monkeypatch):
    from fedsim.data import federation

    planned, plan = [], federation.plan
    monkeypatch.setattr(federation, "plan", lambda config: planned.append(config) or plan(config))
    sweeps.check(expand(write(space={"methods.0.sharpen": [1, 2, 3], "seed": [0, 1]})))
    assert len(planned) == 2


# The command line ----------------------------------------------------------------------------------


def test_nothing_is_left_of_a_sweep_that_is_refused(write, tmp_path, capsys):
    path = write(space={"seed": [0, 1], "participants.partition.minimum": [2, 1000]})
    assert main(["sweep", str(path), f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fedsim: trial 0002-seed=0-minimum=1000: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_sweep_is_neither_taken_nor_continued(write, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    assert main(["sweep", "--resume", str(folder)]) == 2
    assert "the folder of an earlier sweep" in capsys.readouterr().err
    path = write(space={"seed": [0, 1]})
    (folder / "sweep.yaml").write_text(to_yaml(sweeps.load(path)))
    assert main(["sweep", str(path), f"output={folder}"]) == 2
    assert f"fedsim sweep --resume {folder}" in capsys.readouterr().err
    assert main(["sweep", str(path), "space.seed=[0, 2]", "--resume", str(folder)]) == 2
    assert "resume: space.seed.1: 2 is not valid; expected 1, as the sweep began" in capsys.readouterr().err
    assert (folder / "sweep.yaml").exists()


def test_validate_counts_the_trials_of_a_sweep(write, capsys):
    path = write(space={"seed": [0, 1, 2]})
    assert main(["validate", str(path), "set.rounds=2", "space.participants.count=[1, 2]"]) == 0
    assert "6 trials, 0001-seed=0-count=1 to 0006-seed=2-count=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rounds", "grace", "expected"), [(5, 10, "at most 4: trials end"), (1, 1, "fifo: trials end after one")]
)
def test_validate_refuses_a_scheduler_that_stops_nobody(write, capsys, rounds, grace, expected):
    asha = {"kind": "asha", "grace_rounds": grace}
    path = write(space={"seed": [0, 1]}, set={"rounds": rounds}, scheduler=asha)
    assert main(["validate", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fedsim: scheduler.grace_rounds: {grace} ") and expected in said
    assert main(["validate", str(path), "set.rounds=11"]) == 0


def test_validate_refuses_a_scheduler_of_two_metrics(write, capsys):
    text = {
        "data": {"source": "stdlib"},
        "student.model": "llama-tiny",
        "participants.models": ["llama-tiny"],
    }
    path = write(scenarios={"data": {"images": {}, "text": text}}, set={"rounds": 3}, scheduler="asha")
    assert main(["validate", str(path)]) == 2
    assert "scheduler.kind: 'asha'" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["spce", "scenaros", "shceduler"])
def test_validate_knows_a_sweep_by_a_misspelt_field(write, capsys, field):
    path = write(**{field: {"seed": [0, 1]}})
    assert main(["validate", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fedsim: {field}: ") and "did you mean s" in said and "trackers" in said


def test_a_run_with_a_misspelt_field_is_no_sweep(tmp_path):
    for name in ("sed", "metods", "rond", "anything", "participant"):
        (tmp_path / "run.yaml").write_text(f"base: other.yaml\n{name}: 3\n")
        assert not is_sweep(tmp_path / "run.yaml"), name


def test_there_are_sweeps_to_look_at():
    assert {path.stem for path in SWEEPS} >= {"quick", "scale", "loss_weights", "asha", "heterogeneity"}
    assert {path.parent.name for path in SWEEPS} == {"sweeps", "ablations", "headline"}


def test_no_sweep_takes_the_folder_of_another():
    names = [sweeps.load(path).name for path in SWEEPS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_sweeps_of_the_project_are_valid(path):
    trials = expand(path)
    sweeps.check(trials[:: max(1, len(trials) // 8)])
    assert len(trials) >= 8


@pytest.mark.parametrize(
    "path", sorted((EXPERIMENTS / "headline").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_headline_has_a_quick_form(path):
    whole, quick = sweeps.load(path), sweeps.load(path, quick=True)
    assert quick.name == f"{whole.name}-quick" and not quick.quick
    few, many = sweeps.expand(quick), sweeps.expand(whole)
    assert 2 <= len(few) < len(many) and few[0].config.rounds < many[0].config.rounds
    sweeps.check(few)


def test_quick_lies_under_the_command_line(write):
    path = write(space={"seed": [0, 1, 2]}, quick={"space.seed": [0], "set.rounds": 1})
    assert [trial.config.rounds for trial in expand(path)] == [4, 4, 4]
    (trial,) = sweeps.expand(sweeps.load(path, quick=True))
    assert trial.config.rounds == 1 and trial.config.folder.parts[-3:-1] == ("mine-quick", "trials")
    trials = sweeps.expand(sweeps.load(path, quick=True, **{"set.rounds": 2, "name": "own"}))
    assert trials[0].config.rounds == 2 and trials[0].config.folder.parts[-3] == "own"


def test_a_sweep_without_a_quick_form_says_so(write, capsys):
    assert main(["sweep", str(write(space={"seed": [0, 1]})), "--quick"]) == 2
    said = capsys.readouterr().err
    assert "fedsim: quick: None is not valid; expected a section of" in said and said.count("\n") == 1


# What a terminal shows of the end ------------------------------------------------------------------


def finish(trial: sweeps.Trial, score: float, central: float | None = 0.9) -> None:
    """The folder that a finished trial leaves, as far as tables read it."""
    row = {"contender": trial.contender, "metric": "accuracy", "higher_is_better": True, "score": score}
    row |= {"ratio_to_centralized": central and score / central, "bytes_up": 1_250_000, "bytes_down": 900}
    trial.config.folder.mkdir(parents=True)
    (trial.config.folder / "manifest.json").write_text('{"status": "finished"}')
    (trial.config.folder / "report.html").touch()
    (trial.config.folder / "summary.json").write_text(json.dumps([row]))


def test_a_trial_that_is_to_be_attacked_is_finished_once_it_is(write, tmp_path):
    (trial,) = expand(write(space={"seed": [0]}, attack=0, output=str(tmp_path / "out")))
    finish(trial, 0.5)
    assert states.state(trial).status == "unfinished"
    states.mark(trial, states.State("failed", "no memory"))
    assert sweeps.Outcome(tmp_path / "out", [trial]).failed == {trial.name: "no memory"}
    (trial.config.folder / "attacks.parquet").touch()
    assert states.state(trial).status == "finished"


def test_a_backdoor_in_a_trial_that_failed_early_is_not_measured(write, tmp_path):
    backdoor = {"participants.adversary": {"kind": "backdoor", "share": 0.5}}
    (trial,) = expand(write(space={"seed": [0]}, set=backdoor, output=str(tmp_path / "out")))
    trial.config.folder.mkdir(parents=True)
    rows = [{"method": "another", "round": 1, "attack_success": 0.5}]
    results.write_table(trial.config.folder / "rounds.parquet", "rounds", rows)
    assert states.taken_in(trial) is None


def test_a_sweep_that_goes_on_is_not_told_by_its_old_table(write, tmp_path, monkeypatch):
    path, seen = write(space={"seed": [0, 1]}, output=str(tmp_path / "out")), []
    table = tmp_path / "out" / "trials.parquet"

    def execute(*_: object) -> None:
        seen.append(table.exists())

    monkeypatch.setattr("fedsim.runtime.tune.execute", execute)
    for resume in (False, True):
        sweeps.run(sweeps.load(path), resume=resume)
        assert table.exists()
    assert seen == [False, False]


def test_a_sweep_in_a_place_that_can_not_be_written_to_is_one_line(write, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = write(space={"seed": [0, 1]})
    assert main(["sweep", str(path), f"output={tmp_path / 'file' / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fedsim: output: ") and "written to" in said and said.count("\n") == 1
    assert main(["sweep", str(tmp_path / "file" / "sweep.yaml")]) == 2
    assert "a YAML file that can be read (Not a directory)" in capsys.readouterr().err


def cells(table: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in table.splitlines()]


def test_settings_are_compared_over_seeds(write, tmp_path):
    trials = expand(
        write(scenarios={"heterogeneity": UNEVEN}, space={"seed": [0, 1, 2]}), output=str(tmp_path / "out")
    )
    for trial, value in zip(trials, (0.80, 0.84, 0.88, 0.5, 0.7, None), strict=True):
        if value:  # the last has not finished
            finish(trial, value)
    assert cells(sweeps.over_seeds(sweeps.Outcome(tmp_path / "out", trials))) == [
        ["accuracy, higher is better, mean ± sd of 2 to 3 seeds"],
        ["heterogeneity", "score", "of central", "sent up", "sent down", "seeds"],
        ["low", "0.840 ± 0.040", "93.3 ± 4.4 %", "1.25 MB", "900 B", "3"],
        ["high", "0.600 ± 0.141", "66.7 ± 15.7 %", "1.25 MB", "900 B", "2"],
    ]


def test_two_axes_are_crossed(write, tmp_path):
    space = {"participants.count": [2, 3]}
    trials = expand(write(scenarios={"heterogeneity": UNEVEN}, space=space), output=str(tmp_path / "out"))
    for trial, value in zip(trials, (0.80, 0.84, 0.5), strict=False):
        finish(trial, value)
    assert cells(sweeps.over_seeds(sweeps.Outcome(tmp_path / "out", trials))) == [
        ["accuracy, higher is better, one run each"],
        ["heterogeneity", "count=2", "count=3"],
        ["low", "0.800", "0.840"],
        ["high", "0.500", "–"],
    ]


def test_one_setting_is_no_comparison(write, tmp_path):
    trials = expand(write(space={"seed": [0, 1]}), output=str(tmp_path / "out"))
    for trial in trials:
        finish(trial, 0.5)
    assert sweeps.over_seeds(sweeps.Outcome(tmp_path / "out", trials)) == ""


def test_the_report_calls_settings_by_what_the_sweep_varies(write, tmp_path):
    """A scenario sets several fields, so that these would make another name than its own."""
    sizes = {
        "few": {"participants.count": 2, "participants.partition.alpha": 10},
        "many": {"participants.count": 3, "participants.partition.alpha": 1},
    }
    small = {"rounds": 1, "participants.models": ["mlp"], "student.model": "mlp", "methods": ["solo"]}
    sweep = sweeps.load(write(set=small, scenarios={"size": sizes}, output=str(tmp_path / "out")))
    trials = sweeps.expand(sweep)
    for trial in trials:
        simulation.run(trial.config, executor=InProcess())
    (tmp_path / "out" / "sweep.yaml").touch()
    _conclude("mine", sweep.folder, trials)
    report = (tmp_path / "out" / "report.html").read_text()
    assert ">size=few<" in report and ">size=many<" in report

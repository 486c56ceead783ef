"""Training that leaves the finite numbers is an event or one clear line, never a traceback."""

import pytest

import fedsim
from fedsim import simulation
from fedsim.cli import main


def test_a_participant_that_diverges_is_left_out(configs, tmp_path, monkeypatch):
    from fedsim.errors import DivergedError
    from fedsim.methods.federated_distillation import FederatedDistillation

    honest = FederatedDistillation.participant_step

    def step(self, site, round, received):
        if site.participant == 1 and round < 3:
            raise DivergedError("the training loss is nan")
        return honest(self, site, round, received)

    monkeypatch.setattr(FederatedDistillation, "participant_step", step)
    result = simulation.run(fedsim.load(configs["distil"], output=str(tmp_path / "run")))
    people = result.participants
    assert people[people.status == "diverged"][["round", "participant"]].values.tolist() == [[1, 1], [2, 1]]
    assert people[(people.participant == 1) & (people["round"] == 3)].status.item() == "ok"
    assert result.rounds[result.rounds["round"] > 0].delivered.tolist() == [4, 4, 5]


@pytest.mark.parametrize("name", ["federated_distillation", "fl_minillm", "ds_fl"])
def test_a_last_step_that_diverges_is_seen_too(configs, tmp_path, name):
    """No loss tells of it, for each is of before its step; here it is that of one architecture."""
    explodes = {"steps": 1, "batch_size": 4, "learning_rate": 1e38, "warmup": 0, "optimizer": "sgd"}
    method = {"name": name, "prompt": 8} if name == "fl_minillm" else name
    config = fedsim.load(
        configs["text"], output=str(tmp_path / "run"), methods=[method],
        **{"rounds": 1, "data.max_examples": 120, "pretraining.steps": 0, "participants.training": explodes},
    )  # fmt: skip
    result = simulation.run(config)
    assert set(result.participants.status) - {"ok"} == {"diverged"}


def test_a_student_that_diverges_ends_the_run_in_one_line(configs, tmp_path, capsys):
    status = main(
        [
            "run",
            str(configs["distil"]),
            f"output={tmp_path / 'run'}",
            "student.training.learning_rate=1e30",
            "student.training.warmup=0",
        ]
    )
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert "training loss" in error[-1] and error[-1].startswith("fedsim: ")
    assert not any("Traceback" in line for line in error)


@pytest.mark.parametrize("wrong", ["student.engine.precision=fp16", "student.engine.ranks=2"])
def test_a_folder_is_free_again_after_a_wrong_config(configs, tmp_path, wrong, capsys):
    folder = tmp_path / "run"
    assert main(["run", str(configs["distil"]), f"output={folder}", wrong]) == 2
    assert wrong.split("=")[0] in capsys.readouterr().err
    assert not folder.exists()

"""The student trained by DeepSpeed on two ranks: the same student as on one, up to rounding."""

import threading

import numpy as np
import pytest
import ray
import yaml

import fedsim
from fedsim import ConfigError, simulation
from fedsim.runtime.executor import OnRay

TWO_RANKS = (
    "runtime.executor=ray", "runtime.participants_per_actor=5", "runtime.participant.cpus=0.1",
    "runtime.coordinator.cpus=0.4", "student.engine.ranks=2",
)  # fmt: skip


def assert_close(folder, reference, score_of_student):
    """Scores as those of the reference, and the exported student has the recorded one."""
    result, other = simulation.Result(folder).rounds, simulation.Result(reference).rounds
    both = result.merge(other, on=["method", "round"], suffixes=("", "_one"))
    both = both[both.method.isin(result.method) & (both.algorithm != "solo")]
    assert len(both) >= 4
    assert np.isfinite(both.score).all()
    # Gradients are summed in another order, so the last digits differ, and no more than those.
    np.testing.assert_allclose(both.loss, both.loss_one, rtol=1e-3)
    assert (both.planned == both.delivered).all() or "centralized" in set(both.method)
    assert (both.flops_coordinator == both.flops_coordinator_one).all(), "counted once, not per rank"
    product = result[result.method == "federated_distillation"].iloc[-1]
    score, loss = score_of_student(folder)
    assert score == pytest.approx(product.score, rel=1e-5)
    assert loss == pytest.approx(product.loss, rel=1e-5)


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (2, 3))])
def test_two_ranks_train_the_same_student(
    stage, fedsim_command, configs, digits_run, score_of_student, tmp_path
):
    folder = tmp_path / "run"
    fedsim_command(
        "run", configs["digits"], f"output={folder}", *TWO_RANKS, f"student.engine.zero_stage={stage}"
    )
    assert_close(folder, digits_run, score_of_student)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_text_too_and_side_by_side_and_resumed(
    stage, fedsim_command, configs, text_run, score_of_student, assert_same_results, tmp_path
):
    """Tied embeddings, a public start, two lanes with two ranks each; killed on the way and not."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = (*TWO_RANKS, f"student.engine.zero_stage={stage}", "runtime.parallel_methods=2")
    fedsim_command("run", configs["text"], f"output={whole}", *settings)
    assert_close(whole, text_run, score_of_student)
    command = fedsim_command.start("run", configs["text"], f"output={killed}", *settings)
    command.wait_for(killed / "checkpoints" / "federated_distillation" / "round-0001.json")
    command.process.kill()
    command.kill_all()
    fedsim_command("run", "--resume", killed)
    assert_same_results(killed, whole)


class Loses(OnRay):
    """Another rank than the coordinator's dies in the second round, so many seconds into its end."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self.after, self.opened = after, []

    def open(self, lane, round):
        self.opened.append(round)
        return super().open(lane, round)

    def _end(self, at, round, target, calls):
        end = super()._end(at, round, target, calls)
        if round == 2 and self.opened.count(2) == 1:
            threading.Timer(self.after, ray.kill, at.peers).start()
        return end


@pytest.mark.slow
def test_a_rank_that_dies_is_a_lost_coordinator(configs, clean_process, assert_same_results, tmp_path):
    """Whether it dies before a call or in one, when the others see a broken connection."""
    more = dict(setting.split("=") for setting in TWO_RANKS)
    distil = {"student.training.steps": 60, **{field: yaml.safe_load(value) for field, value in more.items()}}
    config = fedsim.load(configs["distil"], output=str(tmp_path / "whole"), **distil)
    whole = simulation.run(config)
    for after in (0.0, 0.3, 0.8):
        config = fedsim.load(configs["distil"], output=str(tmp_path / f"after {after}"), **distil)
        ran = simulation.run(config, executor=(loses := Loses(after)))
        assert loses.opened == [1, 2, 2, 3], after
        assert_same_results(ran.folder, whole.folder)


def test_in_one_process_there_is_one_rank(configs, tmp_path):
    config = fedsim.load(configs["distil"], output=str(tmp_path / "run"), **{"student.engine.ranks": 2})
    with pytest.raises(ConfigError, match=r"student\.engine\.ranks: 2 is not valid; expected 1"):
        fedsim.run(config)


def test_ranks_share_batches_evenly(configs):
    with pytest.raises(ConfigError, match=r"multiple of engine\.ranks"):
        fedsim.load(configs["distil"], **{"student.engine.ranks": 3})

"""Distillation from one central teacher, against the same done by hand."""

import numpy as np
import pytest

from fedsim.aggregation.responses import as_pooled
from fedsim.errors import ConfigError
from fedsim.learning.training import Objective, Phase, Stream
from fedsim.types import COORDINATOR

METHOD = {"name": "central_distillation", "teacher": "mlp", "teacher_steps": 25, "temperature": 2.0}


def test_it_is_a_teacher_on_all_data_and_a_student_on_its_answers(play):
    run = play(METHOD)
    everything = run.coordinator._desk.private
    assert sorted(everything.keys) == sorted(k for s in run.shards.values() for k in s.train.keys)
    run.round(1, [])
    run.round(2, [])

    training = run.config.student.training
    teacher = run.world.specialist("mlp", None, training)
    longer = training.model_copy(update={"steps": 25})
    stream = Stream(everything, training.batch_size, augment=True)
    teacher.fit(Phase((stream,), longer, 1, 1, (0, 0, COORDINATOR, "teacher")))
    proxy = run.public.proxy
    answers = teacher.express(
        proxy, np.arange(len(proxy)), levels=255, quantiser="largest_remainder", key=(0, "e")
    )
    student = run.world.specialist("vit-micro", None, training)
    for number in (1, 2):
        objective = Objective(response=1.0, task=0.3, temperature=2.0)
        lesson = Stream(proxy, training.batch_size, objective, as_pooled(answers), augment=True)
        student.fit(run.method.phase(number, COORDINATOR, "distil", lesson))
    assert np.array_equal(run.weights(), student.parameters().vector)


def test_the_teacher_is_trained_once_and_its_work_is_counted(play):
    run = play(METHOD)
    first, second = run.round(1, []), run.round(2, [])
    training = run.config.student.training
    teacher = run.world.specialist("mlp", None, training)
    stream = Stream(run.coordinator._desk.private, training.batch_size)
    teacher.fit(Phase((stream,), training.model_copy(update={"steps": 25}), 1, 1, (0, "t")))
    assert first.flops - second.flops > teacher.flops
    assert first.flops < 3 * second.flops + 2 * teacher.flops


def test_a_teacher_that_reads_something_else_is_refused(play):
    with pytest.raises(ConfigError, match=r"methods\.0\.teacher: 'pythia-small"):
        play({**METHOD, "teacher": "pythia-small"})
    with pytest.raises(ConfigError, match=r"methods\.0\.teacher_steps"):
        play({**METHOD, "teacher_steps": 0})

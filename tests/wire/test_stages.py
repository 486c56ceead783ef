"""What each stage of the codec takes, against arrays that are really written."""

import numpy as np
import pytest

from fedsim.types import Mixture, Parameters, Responses, Update
from fedsim.wire.container import anatomy
from fedsim.wire.messages import encode
from fedsim.wire.stages import stages


def answers(rows: int, classes: int, levels: int) -> Responses:
    """Rows of three classes each, the first with all quanta that the others leave."""
    ids = np.sort(np.argsort(np.random.default_rng(5).random((rows, classes)))[:, :3]).astype(np.int32)
    counts = np.tile(np.array([levels - 3, 2, 1], np.int32), rows)
    offsets = 3 * np.arange(rows + 1)
    return Responses(np.arange(rows), 1, classes, levels, offsets, ids.ravel(), counts)


def sections(knowledge):
    return anatomy(encode(knowledge, direction="up", round=1, sender=0, samples_known=True).data)


def test_answers_pass_all_stages():
    found = stages(answers(40, 100, 15), {"header": 24, "ids": 76})
    dense = np.zeros((40, 100), np.float32)
    assert found["float32"] == dense.nbytes
    # 0 … 15 is half a byte: pairs of counts fill one.
    assert found["quantised"] == np.packbits(np.zeros((40, 100, 4), np.uint8)).nbytes
    # An entry is one of 100 classes (7 bits) and a count of 1 … 15 (4 bits); a row's length is 1 … 15.
    assert found["listed"] == np.packbits(np.zeros(40 * 3 * (7 + 4) + 40 * 4, np.uint8)).nbytes
    assert found["sent"] == 100 and list(found) == ["float32", "quantised", "listed", "sent"]


def test_what_is_sent_is_smaller_than_what_is_listed():
    knowledge = answers(2000, 50, 15)
    found = stages(knowledge, sections(knowledge))
    assert found["float32"] > found["quantised"] > found["listed"] > found["sent"] > 0
    assert found["sent"] == sum(sections(knowledge).values())


def test_of_a_mixture_the_responses_count():
    knowledge = answers(40, 100, 15)
    mixed = Mixture(responses=knowledge)
    assert stages(mixed, {"header": 24, "responses": 70, "features": 900}) == {
        **stages(knowledge, {"ids": 70}), "sent": 70,
    }  # fmt: skip


@pytest.mark.parametrize(("bits", "packed"), [(8, 1000), (4, 500)])
def test_updates_are_codes_and_scales(bits, packed):
    levels = 2 ** (bits - 1) - 1
    update = Update(np.zeros(1000, np.int8), np.ones(4, np.float32), levels, 7)
    assert stages(update, {"codes": 9}) == {"float32": 4000, "quantised": packed + 16, "sent": 9}


def test_parameters_are_sent_as_they_are_and_other_kinds_pass_no_stage():
    vector = np.zeros(10, np.float32)
    assert stages(Parameters((vector,), 3), {"vector": 40}) == {"float32": 40, "sent": 40}
    assert stages(Mixture(), {"header": 24}) == {}

"""What a host takes in where it was made, unpacked, is what the coordinator would read in its bytes."""

from typing import Any

import numpy as np
import pytest

from fedsim.intake import Pooled
from tests.methods.conftest import Play

METHODS: dict[str, dict[str, Any]] = {
    "parameters": {"name": "fedavg"},
    "parameters in few bits": {"name": "fedavg", "bits": 4},
    "responses": {"name": "federated_distillation"},
}


LIES = (None, "malformed", "sign_flip")
CASES = [(method, lie) for method in METHODS for lie in LIES] + [("responses", "replay")]


@pytest.mark.parametrize(("method", "adversary"), CASES)
def test_read_in_place_or_in_bytes_the_student_is_the_same(method: str, adversary: str | None) -> None:
    people = {"participants.adversary": {"kind": adversary, "share": 0.34}} if adversary else {}
    apart, together = (Play(METHODS[method], **people) for _ in range(2))
    for round in (1, 2, 3):
        closing = apart.round(round)
        message = together.coordinator.open(round)
        reports, pooled = together.host.step(
            together.contender,
            round,
            list(together.shards),
            message.data if message else None,
            None,
            None,
            lambda: together.coordinator.terms,
        )
        assert isinstance(pooled, Pooled)
        assert [report.sent for report in reports] == [len(data) for data in apart.up]
        together.coordinator.receive(list(together.shards), pooled)
        together.coordinator.learn(round)
        assert together.coordinator.close(round, None).statuses == closing.statuses
    refused = [status for status in closing.statuses.values() if status != "ok"]
    assert len(refused) == (adversary in ("malformed", "replay"))
    assert np.array_equal(together.weights(), apart.weights())

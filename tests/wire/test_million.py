"""A million hostile messages of every kind and coder: no crash, no hang, no memory beyond the limit.

`test_messages` looks at the memory of each of ten thousand; this is about what only shows in the many.
"""

import gc
import random
import resource
import time
from collections import Counter

import pytest

from fedsim.errors import MessageError
from fedsim.wire import decode, memory_limit
from tests.wire.hostile import MUTATIONS, VICTIMS, assert_valid, mutate, seal

INPUTS = 1_000_000
LIMIT_MIB = 64
"""By which the process may grow; the largest message of all is allowed a sixteenth of that."""
SLOWEST_S = 1.0
"""CPU seconds of a single input; one of these sizes takes a millisecond."""


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_mutated_messages() -> None:
    seen: Counter[str] = Counter()
    slowest, began, before = 0.0, time.monotonic(), peak_mib()
    limits = [max(1 << 16, memory_limit(expect)) for _, expect in VICTIMS]
    assert 16 * max(limits) <= LIMIT_MIB << 20
    for block in range(INPUTS // 10_000):
        draw = random.Random(block)
        for number in range(10_000):
            which = draw.randrange(len(VICTIMS))
            original, expect = VICTIMS[which]
            message = bytearray(original)
            for _ in range(draw.randint(1, 3)):
                message = mutate(message, draw.choice(MUTATIONS), *(draw.getrandbits(16) for _ in range(3)))
            data = seal(message) if draw.random() < 0.75 else bytes(message)
            start = time.process_time()
            try:
                knowledge = decode(data, expect, limits[which])
            except MessageError as error:
                seen[error.reason] += 1
            else:
                seen["valid"] += 1
                if number % 16 == 0:
                    assert_valid(knowledge, expect)
            slowest = max(slowest, time.process_time() - start)
    gc.collect()
    grown = peak_mib() - before
    print(
        f"\n{seen.total():,} inputs in {time.monotonic() - began:.0f} s, slowest {1000 * slowest:.0f} ms, "
        f"peak {peak_mib():.0f} MiB, {grown:.0f} above the start: {dict(seen)}"
    )
    assert seen.total() == INPUTS
    assert set(seen) == {*MessageError.REASONS, "valid"}
    assert slowest < SLOWEST_S
    assert grown < LIMIT_MIB

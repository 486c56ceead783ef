"""Virtual time, by hand."""

import pytest

from fedsim.config import Device, Link, Participants, RunConfig, Student
from fedsim.network import Clock, Timing, transfer_s

SLOW = Link(up_mbps=1, down_mbps=8, latency_ms=250, loss=0.2)


@pytest.mark.parametrize(
    ("size", "direction", "seconds"),
    [
        (None, "up", 0.0),  # nothing is sent: no latency either
        (0, "up", 0.25),
        (125, "down", 0.25 + 8 * 177 / 8e6 / 0.8),  # one packet, with its headers
        (14_480, "up", 0.25 + 8 * 15_000 / 1e6 / 0.8),  # ten packets may leave at once
        # The eleventh waits for the first answer: half a second after the first packet, of which
        # sending ten took 0.15 s.
        (14_481, "up", 0.25 + 8 * 15_053 / 1e6 / 0.8 + 0.35),
        # 691 packets; after the first ten 0.35 s, after twenty more 0.2 s, and forty take longer than
        # their answers.
        (1_000_000, "up", 0.25 + 8 * 1_035_932 / 1e6 / 0.8 + 0.35 + 0.2),
        (1_000_000, "down", 0.25 + 8 * 1_035_932 / 8e6 / 0.8 + 5 * 0.5 - 0.01875 * 31),
    ],
)
def test_a_transfer_takes_latency_bits_over_bandwidth_and_slow_start(
    size: int | None, direction: str, seconds: float
):
    assert transfer_s(SLOW, size, direction) == pytest.approx(seconds, rel=1e-12)


def test_without_latency_nobody_waits_and_without_loss_nothing_is_sent_twice():
    near = Link(up_mbps=8, latency_ms=0)
    assert transfer_s(near, 1448 * 1000, "up") == pytest.approx(1.5, rel=1e-12)


def test_a_larger_message_never_arrives_earlier():
    far = Link(up_mbps=100, latency_ms=50)
    times = [transfer_s(far, size, "up") for size in range(0, 3_000_000, 1447)]
    assert times == sorted(times)


def test_a_dead_or_impossible_link_is_no_config():
    for wrong in ({"up_mbps": 0}, {"loss": 1.0}, {"loss": -0.1}, {"latency_ms": -1}, {"down_mbps": 1e999}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Link(**wrong)


@pytest.fixture
def clock() -> Clock:
    people = Participants(
        count=4,
        links=(Link(up_mbps=8, down_mbps=80, latency_ms=0), SLOW),
        devices=(Device(flops_per_s=1e9), Device(flops_per_s=1e10), Device(flops_per_s=1e11)),
    )
    return Clock(RunConfig(participants=people, student=Student(device=Device(flops_per_s=2e9))))


def test_links_and_devices_are_dealt_out_in_turn(clock: Clock):
    # Two links and three devices: participant 3 has the second link and the first device.
    timing = clock.timing(3, flops=3e9, received=2_000_000, sent=1_000_000)
    assert timing.down_s == transfer_s(SLOW, 2_000_000, "down")
    assert timing.compute_s == pytest.approx(3.0)
    assert timing.up_s == transfer_s(SLOW, 1_000_000, "up")
    assert timing.total_s == pytest.approx(timing.down_s + 3.0 + timing.up_s)
    assert clock.timing(2, flops=1e11, received=None, sent=None) == Timing(0.0, 1.0, 0.0)


def test_the_slowest_participant_sets_the_pace(clock: Clock):
    fast, slow = Timing(0.1, 1.0, 0.2), Timing(3.0, 0.5, 4.0)
    assert clock.round_s([fast, slow, fast], coordinator_flops=4e9) == pytest.approx(7.5 + 2.0)
    assert clock.round_s([slow, fast], 4e9) == clock.round_s([fast, slow], 4e9)
    assert clock.round_s([], coordinator_flops=1e9) == pytest.approx(0.5)  # nobody was asked

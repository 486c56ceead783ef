"""Where actors go: GPUs are never overfull, everybody has a place, and who has none is named."""

import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsim import loading
from fedsim.config import RunConfig
from fedsim.errors import ConfigError
from fedsim.runtime import tune
from fedsim.runtime.packing import UNIT, Node, Resources, Room
from fedsim.runtime.placement import DRIVER, Plan, bundles, grow, pack, plan


def room(*nodes: tuple[float, ...], free: tuple[tuple[float, ...], ...] = ()) -> Room:
    """Of nodes (CPUs, GPUs, MiB), with what is free on each; all of it if absent."""

    def resources(cpus: float, gpus: float = 0, memory: int = 0) -> Resources:
        return Resources(round(gpus * UNIT), round(cpus * UNIT), int(memory))

    pairs = zip(nodes, free or nodes, strict=True)
    found = tuple(Node(resources(*total), resources(*left)) for total, left in pairs)
    return Room(found, cpus=sum(node[0] for node in nodes))


def config(count: int = 5, ranks: int = 1, methods: int = 3, **runtime: Any) -> RunConfig:
    names = [{"name": "solo", "label": f"solo-{n}"} for n in range(methods)]
    return loading.load(
        {"participants": {"count": count}, "methods": names, "runtime": runtime}, student__engine__ranks=ranks
    )


def reserved(found: Plan) -> list[dict[str, float]]:
    """Per bundle, the sum of its actors, counted anew."""
    sums = [Counter[str]() for _ in found.bundles]
    for host in found.hosts:
        sums[host.bundle].update(host.need.to_ray())
    for lane in found.lanes:
        for bundle in lane:
            sums[bundle].update(found.rank.to_ray())
    return [dict(each) for each in sums]


def check(found: Plan, run: RunConfig, where: Room) -> None:
    """What holds for every plan, whatever was asked."""
    everybody = sorted(k for host in found.hosts for k in host.participants)
    assert everybody == list(range(run.participants.count)), "each participant once"
    asked = run.runtime.participant
    for host in found.hosts:
        assert {Resources.of(asked[k % len(asked)]) for k in host.participants} == {host.need}
    assert len(found.lanes) == min(run.runtime.parallel_methods, len(run.methods))
    used = [Counter[str]() for _ in where.nodes]
    for index, (bundle, whole, actors) in enumerate(
        zip(found.bundles, found.whole_gpus(), reserved(found), strict=True)
    ):
        assert bundle.use.to_ray() == pytest.approx(actors)
        fractions = [h.need.gpus for h in found.hosts if h.bundle == index and h.need.gpus % UNIT]
        assert sum(fractions) <= UNIT, "more than one GPU's worth on a GPU"
        mixed = any(index in lane for lane in found.lanes) and any(h.bundle == index for h in found.hosts)
        assert not mixed, "a coordinator shares with no participant"
        used[bundle.node].update(whole)
    for node, sums in zip(where.nodes, used, strict=True):
        for name, amount in sums.items():
            assert amount <= node.free.to_ray().get(name, 0) * (1 + 1e-9)
    if found.rank.gpus % UNIT:
        for lane in found.lanes:
            assert len(set(lane)) == len(lane), "two ranks of a lane on one GPU"


demands = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([0, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 1, 2]),
        "cpus": st.sampled_from([0, 0.1, 0.2, 0.5, 1, 2]),
        "memory_mib": st.sampled_from([0, 0, 100, 700]),
    }
)
nodes = st.tuples(st.sampled_from([0, 1, 2, 8, 64]), st.integers(0, 8), st.sampled_from([500, 4000]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(nodes, min_size=1, max_size=6),
    st.lists(demands, min_size=1, max_size=8),
    demands,
    st.integers(1, 30),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["auto", 1, 3]),
    st.booleans(),
)
def test_any_plan_is_a_plan(shapes, asked, home, count, ranks, lanes, share, even):
    where = room(*shapes)
    wanted = {"participant": asked, "coordinator": home, "participants_per_actor": share}
    run = config(count, min(ranks, 2), parallel_methods=lanes, **wanted)
    check(grow(run), run, room(*[(1e6, 64, 10**9)] * 100))
    try:
        found = pack(run, where, even=even)
    except ConfigError as refusal:
        assert refusal.field.startswith("runtime.")
        assert "the cluster has" in refusal.expected
        return
    check(found, run, where)
    assert found == pack(run, where, even=even), "not the same a second time"
    if share != "auto":
        assert max(len(host.participants) for host in found.hosts) <= share


@settings(max_examples=80, deadline=None)
@given(
    st.lists(nodes, min_size=1, max_size=4),
    st.lists(demands, min_size=1, max_size=4),
    demands,
    st.integers(1, 12),
    st.integers(1, 2),
    st.sampled_from(["auto", 1, 2]),
)
# 5 begins the second node, then 3 the first: were the second's bundle filled first, 3 would go there too.
@example([(5, 0, 0), (9, 0, 0)], [{"cpus": n} for n in (5, 3, 2, 2)], {"cpus": 1}, 4, 1, 1)
def test_a_trial_fits_into_its_own_bundles(shapes, asked, home, count, ranks, share):
    run = config(count, ranks, participant=asked, coordinator=home, participants_per_actor=share)
    try:
        driver, *amounts = bundles(run, room(*shapes))
    except ConfigError:
        return
    assert driver == {"CPU": 0.1}
    empty, used = Resources(), Resources.from_ray(driver)
    given = [Node(used, empty), *(Node(r, r) for r in map(Resources.from_ray, amounts))]
    inside = Room(tuple(given), cpus=sum(shape[0] for shape in shapes))
    found = pack(run, inside)
    assert sorted(k for host in found.hosts for k in host.participants) == list(range(count))
    assert all(bundle.node > 0 for bundle in found.bundles), "the driver's bundle is the driver's"


TENTHS = [{"cpus": 0.2, "gpus": tenths / 10} for tenths in range(1, 9)]


def test_mixed_fractions_fill_whole_gpus():
    """0.1 to 0.8 are 3.6 GPUs in sum: four are enough, and fragments of four would not be."""
    run = config(8, participant=TENTHS)
    where = room((4, 2), (4, 2))
    found = pack(run, where)
    check(found, run, where)
    assert len(found.hosts) == 8
    gpus = sorted(round(use["GPU"], 4) for use in reserved(found) if "GPU" in use)
    assert gpus == [0.6, 1, 1, 1]


def test_as_a_list_is_dealt_out():
    run = config(5, participant=[{"cpus": 1}, {"cpus": 0.5}])
    needs = {k: h.need.cpus / UNIT for h in pack(run, room((8,))).hosts for k in h.participants}
    assert needs == {0: 1, 1: 0.5, 2: 1, 3: 0.5, 4: 1}


@pytest.mark.parametrize(
    ("runtime", "where", "said"),
    [
        (
            {"participant": {"gpus": 0.25}},
            room((2,)),
            "runtime.participant.gpus: 0.25 is not valid; expected at most 0 for participant 0 "
            "(cpus 0.2, gpus 0.25): the cluster has no GPU",
        ),
        (
            {"participant": [{}, {}, {"gpus": 2}]},
            room((8, 1), (8, 1), (2,)),
            "runtime.participant.2.gpus: 2.0 is not valid; expected at most 1 for participant 2 "
            "(cpus 0.2, gpus 2): the cluster has 2 × (8 CPUs, 1 GPUs) + 1 × (2 CPUs)",
        ),
        (
            {"participant": TENTHS[3:]},
            room((2, 2), (2, 1), free=((2, 2), (2, 0))),
            "runtime.participant.2.gpus: 0.6 is not valid; expected less, or a larger cluster: participant 2 "
            "(cpus 0.2, gpus 0.6) finds no place beside the others; "
            "the cluster has 1 × (2 CPUs, 2 GPUs) + 1 × (2 CPUs, 1 GPUs of which 0 free)",
        ),
        (
            {"participant": {"gpus": 1}, "coordinator": {"gpus": 1}},
            room((2, 1)),
            "runtime.participant.gpus: 1.0 is not valid; expected less, or a larger cluster: participant 0 "
            "(cpus 0.2, gpus 1) finds no place beside the others; the cluster has 1 × (2 CPUs, 1 GPUs)",
        ),
        (
            {"participant": {"memory_mib": 900}},
            room((2, 0, 800)),
            "runtime.participant.memory_mib: 900 is not valid; expected at most 800 for participant 0 "
            "(cpus 0.2, memory_mib 900): the cluster has 1 × (2 CPUs, 800 MiB)",
        ),
        ({"coordinator": {"gpus": 1}}, room((2,)), "runtime.coordinator.gpus: 1.0"),
        ({"participant": {"cpus": 3}}, room((2,)), "runtime.participant.cpus: 3.0"),
        (
            {"participant": {"cpus": 1}, "participants_per_actor": 1},
            room((3,)),
            "runtime.participants_per_actor: 1 is not valid; expected `auto` or at least 3: participant 2 "
            "(cpus 1) finds no place beside the others; the cluster has 1 × (3 CPUs)",
        ),
        ({}, room(), "the cluster has no node"),
    ],
)
def test_who_finds_no_place_is_named(runtime: dict[str, Any], where: Room, said: str):
    with pytest.raises(ConfigError) as refusal:
        pack(config(5, **runtime), where)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("runtime", "where", "hosts"),
    [
        ({}, room((2,)), 5),  # 5 × 0.2 + 0.5
        ({"participant": {"cpus": 0.5}}, room((2,)), 2),  # beyond one each: one per CPU
        ({"participant": {"cpus": 1}}, room((2,)), 1),  # the coordinator has half of the second CPU
        ({"participants_per_actor": 2}, room((2,)), 3),
        ({"parallel_methods": 3}, room((2,)), 2),  # three coordinators leave half a CPU
        ({"participant": {"cpus": 0, "gpus": 0.4}}, room((2, 1)), 2),  # never across two GPUs
        ({"participant": {"cpus": 0, "gpus": 0.4}}, room((2, 2)), 4),
        ({"participant": {"cpus": 0, "gpus": 2}}, room((2, 4)), 2),
        ({"participant": {"cpus": 0, "gpus": 2}}, room((2, 3), (2, 3)), 2),  # nor across two nodes
        ({"participant": {"cpus": 0, "gpus": 1}, "coordinator": {"gpus": 0.5}}, room((2, 4)), 3),
        ({"participant": [{"gpus": 0.5}, {}]}, room((2, 1)), 4),  # 0, 2, 4 share two halves
        ({"participant": {"memory_mib": 300}}, room((2, 0, 800)), 2),
    ],
)
def test_as_many_actors_as_make_sense(runtime: dict[str, Any], where: Room, hosts: int):
    run = config(5, **runtime)
    found = pack(run, where)
    check(found, run, where)
    assert len(found.hosts) == hosts


def test_thousands_on_a_small_machine_get_an_actor_per_cpu():
    found = pack(config(1000), room((2,)))
    assert [len(host.participants) for host in found.hosts] == [500, 500]
    assert found.home == {k: k % 2 for k in range(1000)}


def test_a_large_cluster_is_planned_in_time():
    """Within the 5 s in which a refusal has to be said; this is a hundred times what is usual."""
    asked = [{"gpus": tenths / 10} for tenths in range(9)]
    began = time.monotonic()
    found = pack(config(5000, participant=asked), room(*[(64, 8)] * 50))
    assert time.monotonic() - began < 5
    assert len(found.hosts) > 1000


def test_ranks_of_a_coordinator_stay_on_one_node():
    run = config(2, ranks=4, coordinator={"gpus": 1}, participant={"gpus": 1})
    where = room((8, 2), (8, 5), (8, 4))
    found = pack(run, where)
    check(found, run, where)
    (lane,) = found.lanes
    assert {found.bundles[bundle].node for bundle in lane} == {1}
    split = pack(run, room((8, 3), (8, 3)))
    assert {split.bundles[bundle].node for bundle in split.lanes[0]} == {0, 1}


def test_coordinators_share_a_gpu_with_each_other_only():
    run = config(2, coordinator={"gpus": 0.4}, participant={"gpus": 0.2}, parallel_methods=2)
    found = pack(run, room((4, 2)))
    assert found.lanes[0] == found.lanes[1]
    assert {host.bundle for host in found.hosts}.isdisjoint(found.lanes[0])
    with pytest.raises(ConfigError, match="participant 0"):
        pack(run, room((4, 1)))


def test_hosts_without_a_gpu_are_spread_over_the_nodes():
    run = config(6, participant={"cpus": 1})
    found = pack(run, room((4,), (4,)))
    spread = Counter(found.bundles[host.bundle].node for host in found.hosts)
    assert set(spread.values()) == {3}
    packed = pack(run, room((4,), (4,)), even=False)
    assert sorted(Counter(packed.bundles[h.bundle].node for h in packed.hosts).values()) == [3, 3]
    packed = pack(config(3), room((4,), (4,)), even=False)
    assert {packed.bundles[host.bundle].node for host in packed.hosts} == {0}


def test_what_waits_asks_for_what_is_not_there_yet():
    run = config(5, ranks=2, participant=[{"gpus": 0.5}, {"cpus": 1}], coordinator={"gpus": 1}, wait_s=60)
    found = plan(run, room((2,)))
    assert len(found.hosts) == 5
    assert sorted(found.whole_gpus(), key=str) == sorted(
        [
            {"GPU": 1.0, "CPU": 0.2}, {"GPU": 1.0, "CPU": 0.2},  # the ranks, on whatever machines
            {"GPU": 1.0, "CPU": 0.4}, {"GPU": 1.0, "CPU": 0.2},  # 0 and 2, and 4
            {"CPU": 1.0}, {"CPU": 1.0},
        ],
        key=str,
    )  # fmt: skip
    now = config(5, wait_s=60)
    assert plan(now, room((2,))) == pack(now, room((2,))), "what fits is not waited for"
    with pytest.raises(ConfigError):
        plan(config(5, participant={"gpus": 0.5}), room((2,)))


def test_a_trial_reserves_parts_of_gpus_and_a_little_for_its_driver():
    run = config(3, participant={"cpus": 0.5, "gpus": 0.25}, coordinator={"cpus": 0.5, "gpus": 0.5})
    assert bundles(run, room((4, 2))) == [
        {"CPU": 0.1},
        {"GPU": 0.5, "CPU": 0.5},
        {"GPU": 0.75, "CPU": 1.5},
    ]
    assert DRIVER.to_ray() == {"CPU": 0.1}
    with pytest.raises(ConfigError, match=r"runtime\.coordinator\.cpus"):
        bundles(config(coordinator={"cpus": 2}), room((2,)))


def test_a_trial_has_few_hosts_or_as_many_as_fit():
    def fitted(run: RunConfig, where: Room) -> tuple[int, list[dict[str, float]]]:
        found, reserves = tune.fitted(SimpleNamespace(name="one", config=run), where)
        return found.runtime.participants_per_actor, reserves

    each, reserves = fitted(config(5), room((8,)))
    assert each == 3 and reserves == bundles(config(5, participants_per_actor=3), room((8,)))
    tight = config(5, participant={"cpus": 1})
    assert fitted(tight, room((2,))) == ("auto", bundles(tight, room((2,)))), "one host, as the run has"
    with pytest.raises(ConfigError, match=r"^trial one: runtime\.participant"):
        fitted(config(5, participant={"cpus": 4}), room((2,)))


def test_a_trial_in_one_process_may_wait_for_its_machine():
    """A head of an autoscaling cluster has no CPU for anybody."""
    run = config(5, executor="in_process", threads=2)
    with pytest.raises(ConfigError, match=r"runtime\.threads: 2 is not valid; expected at most 0"):
        tune.reserved(run, room((0,)))
    assert tune.reserved(config(5, executor="in_process", threads=2, wait_s=9), room((0,))) == [{"CPU": 2.0}]


def test_two_ranks_of_a_trial_have_a_gpu_each():
    """NCCL refuses two ranks of a student on one GPU, and Ray would put two halves there."""
    asked = {"coordinator": {"cpus": 0.5, "gpus": 0.5}, "participant": {"cpus": 0.5, "gpus": 0.25}}
    _, *ranks, hosts = bundles(config(3, ranks=2, **asked), room((8, 3)))
    assert ranks == [{"GPU": 1.0, "CPU": 0.5}] * 2
    assert hosts == {"GPU": 0.75, "CPU": 1.5}


def test_planning_needs_no_ray():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from fedsim.runtime.placement import grow\n"
        "from fedsim.config import RunConfig\n"
        "print(len(grow(RunConfig()).hosts))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "5", done.stderr

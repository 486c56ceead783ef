"""What contenders came to, against numbers computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import outcomes, tables
from tests.analysis.conftest import DOWN, INSTITUTIONS, LAST, ROUNDS, UP, alone, score


def of(table: pd.DataFrame, contender: str) -> pd.Series:
    (row,) = table[table["contender"] == contender].to_dict("records")
    return row


@pytest.fixture
def whole(run):
    return outcomes.per_run(analysis.load(run))


def test_the_gap_is_the_way_from_alone_to_centralised(whole):
    # Alone 100 on average, centralised 42, ours 48, proxy only 90.
    assert of(whole, "federated_distillation")["gap_closed"] == pytest.approx(52 / 58)
    assert of(whole, "proxy_only")["gap_closed"] == pytest.approx(10 / 58)
    assert of(whole, "centralized")["gap_closed"] == 1
    assert of(whole, "solo_mean")["gap_closed"] == 0
    assert of(whole, "solo_best")["gap_closed"] == pytest.approx(20 / 58)  # 80


def test_where_centralised_is_no_better_there_is_no_gap(make):
    loaded = analysis.load(make("a"))
    loaded.summary.loc[loaded.summary["algorithm"] == "centralized", "score"] = 101.0  # alone 100
    assert outcomes.gap_closed(loaded.summary).isna().all()


def test_gains_are_nats_on_each_institutions_own_data(whole):
    ours, step = of(whole, "federated_distillation"), math.log(1.25)
    # Four of five gain ln(1 / 0.8), the last loses as much; a tenth of five is one.
    assert ours["gain_mean"] == pytest.approx(3 / 5 * step)
    assert ours["gain_least"] == ours["gain_worst"] == pytest.approx(-step)
    assert ours["harmed"] == 0.2 and math.isnan(ours["jain"])
    # Their specialists do as well as alone.
    assert (ours["specialist_gain"], ours["specialist_harmed"]) == (0, 0)
    for nobody in ("solo_best", "solo_mean"):
        assert math.isnan(of(whole, nobody)["gain_mean"])


def test_who_was_not_asked_last_counts_as_it_was_last_seen(make):
    """Institution 3 did worse when it was last asked; that another was asked since changes nothing."""
    tables = analysis.load(make("some"))
    people = tables.participants
    people = people.copy()
    mine = people["method"] == "federated_distillation"
    people.loc[mine & (people["round"] == 2), "local_score"] = [
        alone(p) * (2.0 if p == 3 else 0.5) for p in range(5)
    ]
    people.loc[mine & (people["round"] == 4), "local_score"] = [alone(0) * 0.5, *[math.nan] * 4]
    found = (
        outcomes.equity(replace(tables, participants=people))
        .set_index("method")
        .loc["federated_distillation"]
    )
    assert found["specialist_harmed"] == 0.2
    assert found["specialist_gain"] == pytest.approx((4 * math.log(2) - math.log(2)) / 5)


def test_gains_in_accuracy_are_differences(make):
    loaded = analysis.load(make("a"))
    for table in (loaded.rounds, loaded.summary):
        table["higher_is_better"] = True
    own = loaded.participants["local_score"] / 200
    loaded.participants["local_score"] = own
    loaded.measures["value"] /= 200
    found = of(outcomes.per_run(loaded), "fedavg")
    alone = np.array([0.4, 0.45, 0.5, 0.55, 0.6])
    gain = alone * np.array([0.8] * 4 + [1.25]) - alone
    assert found["gain_mean"] == pytest.approx(gain.mean()) and found["harmed"] == 0.8
    assert found["gain_least"] == pytest.approx(gain.min())


def test_shares_of_gains_by_hand():
    gains = [0.5, -0.1, 0.2, 0.0, 0.3, 0.4, -0.3, 0.1, 0.2, 0.1, 0.6]  # eleven: a tenth is two
    mean, least, worst, harmed, jain = outcomes.shares(gains)
    assert mean == pytest.approx(2.0 / 11) and least == -0.3 and worst == pytest.approx(-0.2)
    assert harmed == pytest.approx(2 / 11) and math.isnan(jain)  # who neither gains nor loses isn't harmed


def test_jains_index():
    assert outcomes.jain(np.full(7, 0.3)) == pytest.approx(1)
    assert outcomes.jain(np.array([0, 0, 0, 0.4])) == pytest.approx(1 / 4)  # one of four has it all
    assert outcomes.jain(np.array([1.0, 2, 3])) == pytest.approx(36 / (3 * 14))
    assert math.isnan(outcomes.jain(np.zeros(3))) and math.isnan(outcomes.jain(np.array([1, -0.1])))


def test_a_method_without_a_student_is_judged_by_its_specialists(make):
    loaded = analysis.load(make("a", labels={"fedavg": "personal"}))
    own = loaded.rounds["method"] == "personal"
    loaded.rounds.loc[own, "student"] = False
    mine = loaded.participants["method"] == "personal"
    loaded.participants.loc[mine, "local_score"] /= 2
    found = outcomes.equity(loaded).set_index("method")
    assert found.loc["personal", "specialist_gain"] == pytest.approx(math.log(2))
    # Specialists twice as good; its student, which nobody gets, is not looked at.
    assert found.loc["personal", "gain_mean"] == pytest.approx(math.log(2))
    assert found.loc["personal", ["harmed", "jain"]].tolist() == pytest.approx([0, 1])
    assert set(found.index) == {"personal", "federated_distillation", "centralized", "proxy_only"}


def test_who_has_no_own_test_data_is_left_out(make):
    loaded = analysis.load(make("a"))
    loaded.participants.loc[loaded.participants["participant"] == 4, "local_score"] = math.nan
    assert of(outcomes.per_run(loaded), "fedavg")["harmed"] == 0
    loaded.participants["local_score"] = math.nan
    assert np.isnan(outcomes.per_run(loaded)["gain_mean"]).all()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.875])
def test_a_target_counts_all_that_was_sent_until_it_is_reached(run, share):
    found = of(outcomes.per_run(analysis.load(run), share), "federated_distillation")
    curve = [score("federated_distillation", number) for number in range(ROUNDS + 1)]
    first = next(number for number, value in enumerate(curve) if value <= LAST["centralized"] / share)
    assert first > 0
    assert found["rounds_to_target"] == first and found["virtual_s_to_target"] == 25.0 * first
    sent = INSTITUTIONS * (UP["federated_distillation"] + DOWN["federated_distillation"])
    assert found["bytes_to_target"] == first * sent


def test_a_target_that_is_not_reached_is_unknown(make):
    loaded = analysis.load([make("s0", seed=0), make("s1", seed=1)])
    whole = outcomes.per_run(loaded, 0.876)
    ours = whole[whole["contender"] == "federated_distillation"]
    assert np.isnan(ours["bytes_to_target"].to_numpy()).tolist() == [True, False]  # .875, .8776
    table = tables.contenders(whole)
    assert math.isnan(of(table, "federated_distillation")["bytes_to_target"])  # no mean of those that did
    assert of(table, "centralized")["rounds_to_target"] == ROUNDS
    assert math.isnan(of(whole[whole["run"] == "s0"], "solo_best")["rounds_to_target"])


def test_bytes_to_an_equal_score_by_hand(run):
    found = outcomes.equal_score(analysis.load(run), "federated_distillation")
    (row,) = found.to_dict("records")  # nobody else sends anything
    assert row["contender"] == "fedavg" and row["score"] == LAST["fedavg"]
    first = next(n for n in range(ROUNDS + 1) if score("federated_distillation", n) <= LAST["fedavg"])
    ours = first * INSTITUTIONS * (UP["federated_distillation"] + DOWN["federated_distillation"])
    assert (row["ours"], row["theirs"]) == (ours, ROUNDS * INSTITUTIONS * (UP["fedavg"] + DOWN["fedavg"]))


def test_efforts_are_sums_over_rounds_and_means_over_participants(run):
    loaded = analysis.load(run)
    more = pd.DataFrame([
        {"run": "quickstart", "setting": "", "method": "fedavg", "seed": 0, "round": n, "name": name,
         "value": value}
        for n in (1, 2)
        for name, value in (("participants_j", 30.0), ("coordinator_j", 5.0), ("co2e_g", 0.25))
    ])  # fmt: skip
    more["name"] = "energy/" + more["name"]
    whole = outcomes.per_run(replace(loaded, measures=pd.concat([loaded.measures, more])))
    found = of(whole, "fedavg")
    assert found["flops_participant"] == pytest.approx(ROUNDS * 1e11)
    assert found["device_s"] == pytest.approx(ROUNDS * (4 + 3 * 2)) and found["measured_s"] == pytest.approx(
        1.2
    )
    assert found["flops_coordinator"] == pytest.approx((ROUNDS + 1) * 1e11)
    assert (found["energy_j"], found["co2e_g"]) == (70.0, 0.5)
    assert math.isnan(of(whole, "federated_distillation")["energy_j"])
    assert math.isnan(of(whole, "centralized")["flops_participant"])


def test_a_run_without_a_score_has_an_empty_table(make):
    loaded = analysis.load(make("idle"))
    table = outcomes.per_run(replace(loaded, summary=loaded.summary.iloc[:0]))
    assert table.empty and set(outcomes.OUTCOMES) < set(table)

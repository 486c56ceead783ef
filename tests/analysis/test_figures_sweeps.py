"""What figures of many runs draw: values, order, units."""

import math

import pandas as pd
import pytest

import analysis
from analysis import NoDataError, figures, style

GRID = [{"participants.count": n, "participants.partition.alpha": a} for a in (10.0, 0.1) for n in (4, 16)]


def uneven(point):
    """Four participants lose 1, sixteen 4, and uneven data 10 more."""
    return point["participants.count"] / 4 + (10 if point["participants.partition.alpha"] < 1 else 0)


@pytest.fixture
def grid(make_sweep):
    return analysis.load(make_sweep(GRID, worse=uneven))


def trace(fig, name, **wanted):
    found = [t for t in fig.data if t.name == name and all(getattr(t, k) == v for k, v in wanted.items())]
    assert len(found) == 1, [t.name for t in fig.data]
    return found[0]


def test_runs_that_differ_in_the_seed_alone_are_one_line_in_a_band(make):
    tables = analysis.load([make("a"), make("b", seed=4)])
    fig = figures.score_by_round(tables.rounds)
    line = trace(fig, "FedAvg")
    assert line.x == (0, 1, 2, 3, 4) and line.y[4] == 62.0  # 60 and 64
    assert "mean of 2 runs<br>60.0 to 64.0" in line.hovertext[4]
    (band,) = (t for t in fig.data if t.fill == "toself" and t.legendgroup == "FedAvg")
    assert band.x == (0, 1, 2, 3, 4, 4, 3, 2, 1, 0) and (band.y[4], band.y[5]) == (64.0, 60.0)
    assert "the mean of 2 runs; bands reach from the lowest to the highest" in fig.layout.meta["caption"]


def test_lines_of_settings_stay_apart_and_carry_their_setting(grid):
    fig = figures.score_by_round(grid.rounds)
    ours = [t for t in fig.data if t.legendgroup == "Federated distillation" and t.fill is None]
    assert sorted(t.y[-1] for t in ours) == [49.5, 52.5, 59.5, 62.5]
    assert {t.customdata[0] for t in ours} == set(grid.settings["setting"])
    assert "count=4, alpha=10" in set(grid.settings["setting"])
    assert [t.showlegend for t in ours] == [True, False, False, False]


def test_many_settings_are_one_trace_with_the_pen_lifted(make_sweep):
    points = [{"student.training.learning_rate": 1e-4 * k} for k in range(1, 9)]
    tables = analysis.load(make_sweep(points, seeds=1))
    line = trace(figures.score_by_round(tables.rounds), "FedAvg")
    assert len(line.x) == 8 * 5 + 7 and line.y.count(None) == 7
    assert len(set(line.customdata)) == 8


def test_lines_of_hundreds_of_settings_keep_their_ends():
    from analysis.figures.curves import POINTS

    rounds, settings = 40, 500
    rows = pd.DataFrame({
        "run": [f"r{s}" for s in range(settings) for _ in range(rounds)],
        "setting": [f"s{s}" for s in range(settings) for _ in range(rounds)],
        "method": "fedavg", "algorithm": "fedavg", "student": True, "seed": 0,
        "round": list(range(rounds)) * settings, "metric": "accuracy", "higher_is_better": True,
        "score": [k / rounds for k in range(rounds)] * settings,
    })  # fmt: skip
    (line,) = figures.score_by_round(rows).data
    drawn = [x for x in line.x if x is not None]
    assert len(drawn) <= POINTS and drawn.count(0) == drawn.count(39) == settings


def test_score_by_time_adds_up_the_rounds(make):
    tables = analysis.load(make("a"))
    fig = figures.score_by_time(tables.rounds)
    assert trace(fig, "FedAvg").x == (0, 25, 50, 75, 100)
    assert fig.layout.xaxis.title.text == "virtual time, s"
    assert "75.0 s after round 3" in trace(fig, "FedAvg").hovertext[3]


def test_times_that_are_far_apart_have_a_log_axis_with_units(make):
    rounds = analysis.load(make("a")).rounds
    rounds.loc[rounds["method"] == "fedavg", "virtual_s"] *= 1000
    fig = figures.score_by_time(rounds)
    assert fig.layout.xaxis.type == "log" and fig.layout.xaxis.title.text == "virtual time (log scale)"
    ticks = dict(zip(fig.layout.xaxis.ticktext, fig.layout.xaxis.tickvals, strict=True))
    assert (ticks["10 s"], ticks["10 min"], ticks["10 h"]) == (10.0, 600.0, 36_000.0)
    assert trace(fig, "FedAvg").x == (25_000, 50_000, 75_000, 100_000)


def test_targets_are_dashed_lines(make):
    fig = figures.score_by_round(analysis.load(make("a")).rounds, targets=[55.0])
    (line,) = fig.layout.shapes
    assert (line.y0, line.y1, line.line.dash) == (55.0, 55.0, "dash")
    assert fig.layout.annotations[0].text == "target 55.0"


def test_pareto_joins_what_nothing_else_beats(make):
    summary = analysis.load([make("a"), make("b", seed=1), make("c", seed=2)]).summary
    alone = figures.pareto(summary)  # ours sends less and scores better: there is nothing to join
    assert {t.name for t in alone.data} == {"Federated distillation", "FedAvg"}
    assert "joins" not in alone.layout.meta["caption"]
    ours = trace(alone, "Federated distillation")
    assert (ours.x, ours.y) == ((1_100_000,), (49.0,))
    worse = summary.copy()
    worse.loc[worse["contender"] == "federated_distillation", "score"] += 30
    fig = figures.pareto(worse)
    assert trace(fig, "best for its bytes").x == (1_100_000, 139_200_000)
    assert trace(fig, "best for its bytes").y == (79.0, 61.0)
    # Three seeds a unit apart: t(0.975, 2) · 1/√3.
    assert trace(fig, "FedAvg").error_y.array[0] == pytest.approx(2.484, abs=1e-3)
    assert fig.layout.xaxis.type == "log" and "up and down" in fig.layout.xaxis.title.text
    assert {t.name for t in fig.data} == {"best for its bytes", "Federated distillation", "FedAvg"}


def test_the_mean_stands_for_a_contender_without_a_student(make):
    summary = analysis.load(make("a")).summary
    rows = summary["algorithm"] == "solo"
    md = summary[rows].assign(algorithm="fedmd", bytes_up=1000, bytes_down=1000)
    md["contender"] = md["contender"].str.replace("solo", "fedmd")
    both = pd.concat([summary, md], ignore_index=True)
    fig = figures.pareto(both)
    assert trace(fig, "FedMD, mean").y == (100.0,) and "FedMD, best" not in {t.name for t in fig.data}
    looks = style.looks(both)
    assert looks["fedmd_best"].plain == "FedMD, best"
    assert looks["fedmd_best"].colour == looks["fedmd_mean"].colour != looks["solo_mean"].colour


def test_heat_map_has_a_cell_for_participants_and_alpha(grid):
    (cells,) = figures.heat_map(grid.summary, grid.settings).data
    assert cells.x == ("4", "16") and cells.y == ("0.1", "10.0")
    # 48 + worse, and seeds 0 and 1 average to half a unit more.
    assert [list(row) for row in cells.z] == [[59.5, 62.5], [49.5, 52.5]]
    assert cells.text[0][1] == "62.5<br>n = 2"
    assert cells.reversescale is True  # a low perplexity is light
    assert "16 participants, Dirichlet α 0.1" in cells.hovertext[0][1]
    single = figures.heat_map(grid.summary[grid.summary["seed"] == 0], grid.settings)
    assert "every cell is a single run" in single.layout.meta["caption"]


def test_heat_map_takes_named_heterogeneity(make_sweep):
    alphas = {"low": 10.0, "high": 0.1}
    points = [{"heterogeneity": h, "participants.count": n} for h in alphas for n in (4, 8)]

    def fields(point):
        return {"participants.count": point["participants.count"],
                "participants.partition.alpha": alphas[point["heterogeneity"]]}  # fmt: skip

    tables = analysis.load(make_sweep(points, fields=fields))
    fig = figures.heat_map(tables.summary, tables.settings)
    assert fig.data[0].y == ("low", "high") and fig.layout.yaxis.title.text == "heterogeneity"


def test_scaling_shows_score_and_both_times(grid):
    fig = figures.scaling(grid.summary, grid.settings)
    score, wall, virtual = (t for t in fig.data if t.name == "FedAvg")
    assert score.x == (4, 16) and score.y == (66.5, 69.5)  # means over α and seeds
    assert wall.y == (10.0, 10.0) and wall.line.dash == "solid" and wall.yaxis == "y2"
    assert virtual.y == (100.0, 100.0) and virtual.line.dash == "dot"
    assert "mean of 4 runs" in score.hovertext[0]
    assert fig.layout.yaxis2.title.text == "time, s (log scale)" and fig.layout.xaxis2.ticktext == ("4", "16")


def test_bandwidth_scenarios_stand_from_narrow_to_wide(make_sweep):
    speeds = {"fibre": 100.0, "modem": 0.1}
    points = [{"bandwidth": name} for name in speeds]
    folder = make_sweep(
        points, fields=lambda p: {"participants": {"links": [{"up_mbps": speeds[p["bandwidth"]]}]}}
    )
    tables = analysis.load(folder)
    slow = tables.summary["setting"] == "bandwidth=modem"
    tables.summary.loc[slow, "virtual_s"] = 4000.0 + 1000 * tables.summary.loc[slow, "seed"]
    fig = figures.bandwidth(tables.summary, tables.settings)
    ours = trace(fig, "Federated distillation")
    assert ours.x == ("modem", "fibre") and ours.y == (4500.0, 100.0)
    assert ours.error_y.array == (500.0, 0.0) and ours.error_y.arrayminus == (500.0, 0.0)
    assert fig.layout.yaxis.type == "log" and fig.layout.yaxis.title.text == "virtual time, s (log scale)"
    assert {t.name for t in fig.data} == {"Federated distillation", "FedAvg"}  # yardsticks send nothing


def test_loss_weights_lie_on_the_simplex(make_sweep):
    weights = [(1.0, 1.0, 2.0), (2.0, 0.0, 0.0), (1.0, 3.0, 0.0)]
    names = ("methods.0.response", "methods.0.task", "methods.0.digest")
    folder = make_sweep(
        [dict(zip(names, w, strict=True)) for w in weights],
        seeds=1,
        worse=lambda p: p[names[0]],
        fields=lambda p: {"methods": [{k.rsplit(".", 1)[-1]: v for k, v in p.items()}]},
    )
    tables = analysis.load(folder)
    dots, ring = figures.loss_weights(tables.summary, tables.settings).data
    assert dots.a == (0.25, 1.0, 0.25) and dots.b == (0.25, 0.0, 0.75) and dots.c == (0.5, 0.0, 0.0)
    assert dots.marker.color == (49.0, 50.0, 49.0)
    assert (ring.a, ring.b, ring.c) == ((0.25,), (0.25,), (0.5,))
    assert "response 1, task 1, digest 2" in dots.hovertext[0]
    with pytest.raises(NoDataError, match="do not vary"):
        figures.loss_weights(tables.summary, tables.settings, ("a", "b", "c"))


def test_response_has_a_panel_for_each_numeric_setting(grid):
    fig = figures.response(grid.summary, grid.settings)
    dots, line, more_dots, more = fig.data
    assert sorted(zip(dots.x, dots.y, strict=True))[:2] == [(4, 49.0), (4, 50.0)]
    assert line.x == (4, 16) and line.y == (54.5, 57.5)
    assert more.x == (0.1, 10.0) and more.y == (61.0, 51.0) and more.xaxis == "x2"
    assert len(more_dots.x) == 8
    assert fig.layout.xaxis.title.text == "count" and fig.layout.xaxis2.title.text == "alpha (log scale)"
    assert fig.layout.xaxis2.type == "log" and fig.layout.yaxis.title.text == "perplexity"
    one = figures.response(grid.summary, grid.settings, ["alpha"])
    assert len(one.data) == 2
    with pytest.raises(NoDataError):
        figures.response(grid.summary, grid.settings.assign(**{c: 1 for c in GRID[0]}))


def test_response_joins_tenths_of_the_runs_where_values_were_drawn(make_sweep):
    points = [{"student.training.learning_rate": k / 1000} for k in range(1, 21)]
    tables = analysis.load(
        make_sweep(points, seeds=1, worse=lambda p: 1000 * p["student.training.learning_rate"])
    )
    dots, line = figures.response(tables.summary, tables.settings).data
    assert len(dots.x) == 20
    # Two runs each: 1 and 2, 3 and 4, …
    assert line.x == pytest.approx([(2 * k + 1.5) / 1000 for k in range(10)])
    assert line.y == pytest.approx([48 + 2 * k + 1.5 for k in range(10)])


def test_ablation_bars_are_losses_against_the_whole_method(make_sweep):
    points = [{"ablation": name} for name in ("all", "no curriculum", "no claims")]
    cost = {"all": 0.0, "no curriculum": 3.0, "no claims": 8.0}
    tables = analysis.load(make_sweep(points, seeds=3, worse=lambda p: cost[p["ablation"]]))
    # Another seed's luck: the pair of the last seed differs by two more.
    lucky = (tables.summary["seed"] == 2) & (tables.summary["setting"] == "ablation=no claims")
    tables.summary.loc[lucky, "score"] += 3
    fig = figures.ablation(figures.variants(tables.summary, tables.settings))
    assert fig.layout.yaxis.ticktext == ("no claims", "no curriculum")
    assert [bar.x[0] for bar in fig.data] == [9.0, 3.0]
    # Differences 8, 8, 11: t(0.975, 2) · √3/√3.
    assert fig.data[0].error_x.array[0] == pytest.approx(4.3027 * math.sqrt(3) / math.sqrt(3), abs=1e-3)
    assert "+9 perplexity, 3 pairs" in fig.data[0].hovertext[0]
    assert fig.layout.xaxis.title.text == "worse than all by, perplexity"


def test_ablation_pairs_runs_that_are_alike_in_all_else(make_sweep):
    """Every variant costs 5; the partner of a missing trial is left out, not paired with another α."""
    points = [{"ablation": name, "alpha": alpha} for name in ("all", "no digest") for alpha in (0.1, 10.0)]
    far = {0.1: 40.0, 10.0: 0.0}
    sweep = make_sweep(points, worse=lambda p: far[p["alpha"]] + 5 * (p["ablation"] != "all"))
    trials = [trial for trial in sorted((sweep / "trials").iterdir())[1:]]
    tables = analysis.load(sweep)
    there = tables.summary["run"].isin([trial.name for trial in trials])
    fig = figures.ablation(figures.variants(tables.summary[there], tables.settings))
    assert [bar.x[0] for bar in fig.data] == [5.0]
    assert "+5 perplexity, 3 pairs" in fig.data[0].hovertext[0]
    assert fig.data[0].error_x.array is None and "p =" not in fig.data[0].hovertext[0], "over two settings"
    assert "so no intervals" in fig.layout.meta["caption"]


def test_variants_may_be_contenders_of_one_run(make):
    summary = analysis.load(make("a")).summary
    ours = summary[summary["contender"] == "federated_distillation"]
    less = ours.assign(contender="without digest", score=0.5, metric="accuracy", higher_is_better=True)
    table = pd.concat([ours.assign(score=0.7, metric="accuracy", higher_is_better=True), less])
    fig = figures.ablation(figures.variants(table, pd.DataFrame({"run": ["a"]})))
    assert fig.data[0].x[0] == pytest.approx(20.0) and fig.data[0].error_x.array is None
    assert "percentage points of accuracy" in fig.layout.xaxis.title.text
    assert "one pair each, so no intervals" in fig.layout.meta["caption"]


def test_privacy_has_epsilon_against_score_and_the_open_runs(make_sweep):
    points = [{"privacy.epsilon": e} for e in (8.0, 0.5, None)]
    cost = {8.0: 2.0, 0.5: 30.0, None: 0.0}
    tables = analysis.load(make_sweep(points, worse=lambda p: cost[p["privacy.epsilon"]]))
    fig = figures.privacy(figures.private_runs(tables.summary, tables.settings))
    ours, without = trace(fig, "Federated distillation"), trace(fig, "Federated distillation, not private")
    assert ours.x == (0.5, 8.0) and ours.y == (78.5, 50.5)
    assert without.x == (0.5, 8.0) and without.y == (48.5, 48.5) and without.line.dash == "dot"
    assert "ε = 0.5<br>78.5, mean of 2 runs" in ours.hovertext[0]
    assert fig.layout.xaxis.type == "log" and "ε" in fig.layout.xaxis.title.text
    assert fig.layout.xaxis.tickvals == (0.5, 8.0)  # those that there are
    assert fig.layout.meta["caption"].endswith("the mean of 2 runs; lines are 95% intervals over seeds.")


def test_a_budget_of_one_contender_is_not_the_others(make_sweep):
    def fields(point):
        of_ours = {"name": "federated_distillation", "pate": {"epsilon": point["methods.0.pate.epsilon"]}}
        return {"methods": [of_ours, {"name": "fedavg"}]}

    points = [{"methods.0.pate.epsilon": e} for e in (1.0, 8.0)]
    tables = analysis.load(make_sweep(points, fields=fields))
    fig = figures.privacy(figures.private_runs(tables.summary, tables.settings))
    assert trace(fig, "Federated distillation").x == (1.0, 8.0)
    assert trace(fig, "FedAvg, not private").line.dash == "dot"
    assert "FedAvg" not in [t.name for t in fig.data]


def test_membership_has_the_best_attack_on_each_target_and_the_open_runs_last(make_sweep):
    points = [{"privacy.epsilon": e} for e in (8.0, 0.5, None)]
    auc = {8.0: 0.6, 0.5: 0.5, None: 0.7}
    tables = analysis.load(make_sweep(points, attacked=lambda p: auc[p["privacy.epsilon"]]))
    fig = figures.membership(figures.attacked_runs(tables.attacks, tables.settings))
    student, specialists = trace(fig, "student"), trace(fig, "specialists")
    assert student.x == specialists.x == fig.layout.xaxis.categoryarray == ("0.5", "8", "none")
    assert student.y == pytest.approx((0.5, 0.6, 0.7)) and specialists.y == pytest.approx((0.6, 0.7, 0.8))
    assert student.error_y.array == pytest.approx([0.03] * 3)
    assert student.error_y.arrayminus == pytest.approx([0.02] * 3)
    (chance,) = fig.layout.shapes
    assert chance.y0 == chance.y1 == 0.5
    with pytest.raises(NoDataError, match="no run was attacked"):
        figures.attacked_runs(None, tables.settings)


def test_robustness_has_a_line_for_each_way_to_pool(make_sweep):
    points = [
        {"participants.adversary.share": x, "aggregation": d} for d in ("mean", "median") for x in (0.0, 0.4)
    ]

    def worse(point):
        return point["participants.adversary.share"] * (100 if point["aggregation"] == "mean" else 10)

    tables = analysis.load(make_sweep(points, worse=worse, methods=("federated_distillation", "solo")))
    fig = figures.robustness(figures.troubled_runs(tables.summary, tables.settings))
    assert trace(fig, "mean").x == (0.0, 0.4) and trace(fig, "mean").y == (48.5, 88.5)
    assert trace(fig, "median").y == (48.5, 52.5)
    assert fig.layout.xaxis.title.text == "participants that attack" and fig.layout.xaxis.tickformat == ".0%"
    # Two runs a unit apart: t(0.975, 1) / 2.
    assert trace(fig, "mean").error_y.array[0] == pytest.approx(6.353, abs=1e-3)


def test_clean_runs_have_no_adversary_and_several_attacks_no_interval(make_sweep):
    points = [{"attack": name} for name in ("clean", "noise", "replay")]

    def fields(point):
        kind = point["attack"]
        adversary = None if kind == "clean" else {"kind": kind, "share": 0.2}
        return {"participants": {"adversary": adversary}}

    cost = {"clean": 0.0, "noise": 10.0, "replay": 20.0}
    tables = analysis.load(make_sweep(points, fields=fields, worse=lambda p: cost[p["attack"]]))
    fig = figures.robustness(figures.troubled_runs(tables.summary, tables.settings))
    ours = trace(fig, "Federated distillation")
    assert ours.x == (0.0, 0.2) and ours.y == (48.5, 63.5)
    assert ours.error_y.array[0] == pytest.approx(6.353, abs=1e-3) and math.isnan(ours.error_y.array[1])
    assert "of several settings; lines are 95% intervals" in fig.layout.meta["caption"]


def test_robustness_takes_any_numeric_setting(make_sweep):
    points = [{"adversary.strength": x} for x in (1, 10)]
    tables = analysis.load(make_sweep(points, worse=lambda p: p["adversary.strength"]))
    rows = figures.troubled_runs(tables.summary, tables.settings, "adversary.strength")
    ours = trace(figures.robustness(rows), "Federated distillation")
    assert ours.x == (1, 10) and ours.y == (49.5, 58.5) and "10: adversary.strength" in ours.hovertext[1]
    with pytest.raises(NoDataError, match="no setting rounds varies"):
        figures.troubled_runs(tables.summary, tables.settings, "rounds")

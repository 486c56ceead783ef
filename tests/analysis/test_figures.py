"""What is drawn: values, order, units, colours."""

import math
from dataclasses import replace

import pandas as pd
import pytest

import analysis
from analysis import NoDataError, figures, style

EXPECTED_ORDER = ["Centralised", "Federated distillation", "FedAvg", "Solo, best", "Proxy only", "Solo, mean"]


@pytest.fixture
def tables(run):
    return analysis.load(run)


def traces(fig, **wanted):
    return [t for t in fig.data if all(getattr(t, key) == value for key, value in wanted.items())]


def row_names(fig):
    return [text.replace("<br>", " ") for text in fig.layout.yaxis.ticktext]


def in_percent(frame):
    """The same rows as accuracies, where higher is better."""
    return frame.assign(metric="accuracy", higher_is_better=True, score=1 - frame["score"] / 300)


OF_A_RUN = [key for heading, of in figures.HEADINGS.items() for key in of if heading != "Settings"]


@pytest.mark.parametrize("key", OF_A_RUN)
def test_title_is_the_question_of_the_docstring(tables, key):
    fig = figures.FIGURES[key](tables)
    question = getattr(figures, key.replace("-", "_")).__doc__.splitlines()[0]
    assert fig.layout.title.text == question and question.endswith("?")
    assert fig.layout.meta["caption"].endswith(".") and "\n" not in fig.layout.meta["caption"]
    assert all(t.hovertext or t.hoverinfo == "skip" for t in fig.data)


def test_every_figure_has_titled_axes(tables):
    for key in OF_A_RUN:
        assert figures.FIGURES[key](tables).layout.xaxis.title.text


def test_final_scores_lists_the_best_first_with_its_share(tables):
    fig = figures.final_scores(tables.summary)
    assert row_names(fig) == EXPECTED_ORDER
    bars = {bar.name: bar for bar in traces(fig, type="bar")}
    assert [bars[name].x[0] for name in EXPECTED_ORDER] == [42, 48, 60, 80, 90, 100]
    assert bars["Federated distillation"].text == ("48.0 · 88%",)
    assert bars["Solo, mean"].text == ("100.0 · 42%",)
    # The dashed line is the centralised score; bars start at zero.
    assert [(s.x0, s.x1, s.line.dash) for s in fig.layout.shapes] == [(42, 42, "dash")]
    assert fig.layout.xaxis.range[0] == 0
    assert fig.layout.xaxis.title.text == "perplexity per token (lower is better)"


def test_final_scores_turn_over_where_higher_is_better(tables):
    fig = figures.final_scores(in_percent(tables.summary))
    assert row_names(fig) == EXPECTED_ORDER
    assert fig.layout.xaxis.title.text == "accuracy (higher is better)"
    assert fig.layout.xaxis.tickformat == ".0%"
    assert traces(fig, name="Centralised")[0].text[0].startswith("86.0%")


def test_final_scores_without_a_bound_have_no_ratio_and_no_line(make):
    summary = analysis.load(make("open", methods=("federated_distillation", "fedavg"))).summary
    fig = figures.final_scores(summary)
    assert not fig.layout.shapes
    assert [bar.text[0] for bar in fig.data] == ["48.0", "60.0"]


def test_several_runs_are_dots_around_their_mean(make):
    tables = analysis.load([make("a"), make("b", seed=2)])
    fig = figures.final_scores(tables.summary)
    assert traces(fig, type="bar", name="FedAvg")[0].x == (61.0,)
    dots = [t for t in traces(fig, type="scatter") if t.marker.color == style.VERMILLION]
    assert dots[0].x == (60.0, 62.0) and "run b" in dots[0].hovertext[1]
    assert "mean" in fig.layout.meta["caption"]


def test_score_by_round_draws_every_round_of_every_contender(tables):
    fig = figures.score_by_round(tables.rounds)
    assert [t.name for t in fig.data] == [
        "Federated distillation", "FedAvg", "Centralised", "Proxy only", "Solo, mean",
    ]  # fmt: skip
    ours = fig.data[0]
    assert ours.x == (0, 1, 2, 3, 4)
    mine = tables.rounds[tables.rounds["method"] == "federated_distillation"]
    assert list(ours.y) == list(mine["score"])
    assert "round 4<br>perplexity 48.0" in ours.hovertext[4]
    assert fig.layout.yaxis.title.text == "perplexity per token (lower is better)"


def test_score_by_round_leaves_out_what_was_not_evaluated(tables):
    rounds = tables.rounds.copy()
    rounds.loc[(rounds["method"] == "fedavg") & (rounds["round"] == 2), "score"] = math.nan
    rounds.loc[(rounds["method"] == "fedavg") & (rounds["round"] == 3), "score"] = math.inf
    assert traces(figures.score_by_round(rounds), name="FedAvg")[0].x == (0, 1, 4)


def test_a_wide_span_of_perplexity_is_logarithmic_and_says_so(tables):
    rounds = tables.rounds.copy()
    rounds.loc[rounds["round"] == 0, "score"] = 5000.0
    axis = figures.score_by_round(rounds).layout.yaxis
    assert axis.type == "log" and axis.title.text.endswith("(lower is better), log scale")
    assert "1,000" in axis.ticktext


def test_score_by_bytes_accumulates_both_directions(tables):
    fig = figures.score_by_bytes(tables.rounds)
    ours = traces(fig, name="Federated distillation")[0]
    # 5 participants × (40 kB up + 15 kB down) a round; the start cost nothing and has no place.
    assert ours.x == (275_000, 550_000, 825_000, 1_100_000)
    assert ours.y[-1] == 48.0
    assert "1.10 MB after round 4" in ours.hovertext[3]
    assert fig.layout.xaxis.type == "log"
    assert {"1 MB", "100 MB"} <= set(fig.layout.xaxis.ticktext)
    level = traces(fig, name="Centralised")[0]
    assert level.y == (42.0, 42.0) and level.line.dash == "dot"
    assert level.x[0] <= 275_000 and level.x[1] >= 139_200_000


def test_bytes_of_unscored_rounds_count(tables):
    rounds = tables.rounds.copy()
    rounds.loc[rounds["round"].isin([1, 3]), "score"] = math.nan
    ours = traces(figures.score_by_bytes(rounds), name="Federated distillation")[0]
    assert ours.x == (550_000, 1_100_000)


def test_traffic_in_both_directions(tables):
    fig = figures.traffic(tables.summary)
    assert row_names(fig) == ["FedAvg", "Federated distillation", "Centralised", "Proxy only", "Solo"]
    up, down = (traces(fig, name=f"Federated distillation, {way}")[0] for way in ("up", "down"))
    assert (up.x, up.text, up.marker.symbol) == ((800_000,), ("800 kB",), "triangle-up")
    assert (down.x, down.text, down.marker.symbol) == ((300_000,), ("300 kB",), "triangle-down")
    assert "(800,000 bytes)" in up.hovertext[0]
    assert traces(fig, name="FedAvg, up")[0].text == ("69.6 MB each way",)
    assert [note.text for note in fig.layout.annotations] == ["sends nothing"] * 3
    assert fig.layout.xaxis.type == "log" and "bytes" in fig.layout.xaxis.title.text


def test_partition_bubbles_have_the_area_of_their_examples(tables):
    fig = figures.partition(tables.partition)
    (bubbles,) = fig.data
    assert fig.layout.yaxis.ticktext == ("email", "asyncio", "json")
    drawn = dict(zip(zip(bubbles.x, bubbles.y, strict=True), bubbles.marker.size, strict=True))
    assert drawn[4, 0] == 140 and drawn[1, 2] == 40 and (0, 2) not in drawn
    assert bubbles.marker.sizemode == "area"
    # Participant 1 has 80 + 40 + 60 = 180 examples; json has 80 in all.
    hover = next(text for text in bubbles.hovertext if "participant 1</b>, json" in text)
    assert "40 examples" in hover and "22% of its shard, 50% of the group" in hover
    assert "90 to 290" in fig.layout.meta["caption"]


def test_gain_compares_alone_with_together_and_the_student(tables):
    fig = figures.gain(tables.participants, tables.rounds)
    alone, together = traces(fig, name="alone")[0], traces(fig, name="in Federated distillation")[0]
    assert alone.x == (80, 90, 100, 110, 120)
    assert together.x == (62, 67, 72, 77, 130)
    won, lost = (t for t in fig.data if t.line.width == 4)
    assert won.x[:3] == (80, 62, None) and won.line.color == style.BLUE
    assert lost.x == (120, 130, None) and lost.y[0] == 4 and lost.line.color == style.GREY
    assert traces(fig, name="the student")[0].x == (48, 48)
    assert fig.layout.meta["caption"] == (
        "4 of 5 specialists score better for taking part; the student beats 5 of 5 institutions on their own."
    )
    assert row_names(fig)[:2] == ["0 · llama-tiny", "1 · gpt2-tiny"]
    low, high = fig.layout.xaxis.range
    assert low < 48 and high > 130


def test_gain_where_higher_is_better(tables):
    people = tables.participants.assign(metric="accuracy", score=1 - tables.participants["score"] / 300)
    fig = figures.gain(people, in_percent(tables.rounds))
    assert fig.layout.meta["caption"].startswith("4 of 5 specialists score better")


def test_gain_has_a_log_axis_where_somebody_is_far_behind(tables):
    people = tables.participants.copy()
    people.loc[(people["method"] == "solo") & (people["participant"] == 3), "score"] *= 30
    axis = figures.gain(people, tables.rounds).layout.xaxis
    assert axis.type == "log" and 48 > 10 ** axis.range[0] > 30 and 10 ** axis.range[1] > 110 * 30


def test_of_many_rows_some_are_named_and_the_last():
    from analysis.figures.frame import category_rows

    assert category_rows(["a", "b"])["ticktext"] == ["a", "b"]
    many = category_rows([*map(str, range(50)), "coordinator"])
    assert many["ticktext"] == ["0", "10", "20", "30", "40", "coordinator"]
    assert many["tickvals"][-1] == 50 and category_rows([str(n) for n in range(52)])["tickvals"][-2:] == [
        40,
        51,
    ]
    assert len(category_rows([str(n) for n in range(1000)])["tickvals"]) <= 21


def test_timeline_puts_the_phases_end_to_end(tables):
    fig = figures.timeline(tables.participants, tables.rounds)
    down, compute, up = (traces(fig, name=name)[0] for name in ("download", "compute", "upload"))
    assert down.x == (1,) * 5 and down.base == (0,) * 5
    assert compute.x == (4, 7, 10, 13, 16) and compute.base == (1,) * 5
    assert up.x == (2,) * 5 and up.base == (5, 8, 11, 14, 17)
    rest = traces(fig, name="coordinator")[0]
    assert (rest.base, rest.x) == ((19,), (6,))
    cross = traces(fig, name="not pooled")[0]
    assert (cross.x, cross.y) == ((19,), (4,)) and "late" in cross.hovertext[0]
    assert fig.layout.xaxis.title.text == "virtual time in the round, s"
    assert (
        "Round 4 of Federated distillation: 25.0 s; the slowest participant is 4."
        in fig.layout.meta["caption"]
    )


def test_timeline_changes_its_unit(tables):
    people = tables.participants.copy()
    people[["down_s", "compute_s", "up_s"]] *= 600
    fig = figures.timeline(people, tables.rounds.assign(virtual_s=15_000.0))
    assert fig.layout.xaxis.title.text == "virtual time in the round, h"
    assert traces(fig, name="download")[0].x == (pytest.approx(1 / 6),) * 5


def test_one_run_is_pictured_and_the_others_are_mentioned(make):
    tables = analysis.load([make("a"), make("b", seed=1)])
    for key in ("gain", "partition", "timeline"):
        assert "Run a, the first of 2." in figures.FIGURES[key](tables).layout.meta["caption"]


def test_colours_are_fixed_per_contender(tables):
    curves = {t.name: t.line.color for t in figures.score_by_round(tables.rounds).data}
    bars = {t.name: t.marker.color for t in figures.final_scores(tables.summary).data}
    assert curves["FedAvg"] == bars["FedAvg"] == style.VERMILLION
    assert curves["Solo, mean"] == bars["Solo, best"] == style.GREEN
    assert len(set(curves.values())) == 5


def test_a_second_contender_of_an_algorithm_looks_different():
    frame = pd.DataFrame(
        {"method": ["fd", "fd 4-bit", "mine"], "algorithm": ["federated_distillation"] * 2 + ["plugin"]}
    )
    looks = style.looks(frame)
    assert looks["fd"].colour == style.BLUE
    assert len({(x.colour, x.dash) for x in looks.values()}) == 3
    assert [x.plain for x in looks.values()] == ["fd", "fd 4-bit", "mine"]


def test_many_contenders_stay_apart():
    names = [f"m{i}" for i in range(14)]
    looks = style.looks(pd.DataFrame({"method": names}))
    assert len({(x.colour, x.dash) for x in looks.values()}) == 14


def test_text_from_data_is_no_markup_in_plotly(make):
    label = '<a href="https://example.org">x</a>'
    tables = analysis.load(make("hostile", labels={"fedavg": label}))
    for key in OF_A_RUN:
        assert "<a href" not in figures.FIGURES[key](tables).to_json().replace("\\u003c", "<")


@pytest.mark.parametrize("key", figures.FIGURES)
def test_nothing_to_draw_is_a_reason_not_a_crash(tables, key):
    names = ("rounds", "participants", "messages", "sections", "measures", "partition", "summary")
    nothing = replace(tables, **{name: getattr(tables, name).iloc[:0] for name in names})
    with pytest.raises(NoDataError, match=r"^[a-zα (),]+$"):
        figures.FIGURES[key](nothing)


def test_two_metrics_share_no_axis(tables):
    both = pd.concat([tables.rounds, in_percent(tables.rounds)], ignore_index=True)
    with pytest.raises(NoDataError, match="different metrics: accuracy, perplexity"):
        figures.score_by_round(both)


def test_losses_divide_the_students_loss_into_its_terms(tables):
    fig = figures.losses(tables.rounds)
    assert [t.name for t in fig.data] == ["all of it", "pooled answers", "own task on the proxy set"]
    whole, answers, task = fig.data
    assert whole.x == answers.x == task.x == (1, 2, 3, 4)  # nothing was learnt in round 0
    assert whole.y == pytest.approx((4, 2, 4 / 3, 1)) and whole.line.dash == "dash"
    assert answers.y == pytest.approx((3, 1.5, 1, 0.75)) and task.y == pytest.approx((1, 0.5, 1 / 3, 0.25))
    assert answers.hovertext[1] == "<b>pooled answers</b><br>round 2<br>1.50 nats"
    assert fig.layout.yaxis.title.text == "loss, nats" and fig.layout.xaxis.title.text == "round"
    assert fig.layout.meta["caption"].startswith("Federated distillation: means over a round")


def test_losses_are_means_over_runs_and_log_where_terms_are_far_apart(make):
    both = analysis.load([make("a"), make("b", seed=1)])
    rounds = both.rounds.copy()
    rounds.loc[rounds["run"] == "b", "learn_task"] *= 3
    task = figures.losses(rounds).data[2]
    assert task.y == pytest.approx((2, 1, 2 / 3, 0.5))
    rounds["learn_task"] /= 100
    axis = figures.losses(rounds).layout.yaxis
    assert axis.type == "log" and axis.title.text == "loss, nats (log scale)"


def test_attack_success_is_the_share_that_falls_for_the_trigger(make):
    tables = analysis.load([make("a"), make("b", seed=1)])
    rounds = tables.rounds.copy()
    with pytest.raises(NoDataError, match="backdoor"):
        figures.attack_success(rounds)
    ours = rounds["method"] == "federated_distillation"
    rounds.loc[ours, "attack_success"] = rounds.loc[ours, "round"] / 10 + rounds.loc[ours, "seed"] / 5
    fig = figures.attack_success(rounds)
    line, band = (next(t for t in fig.data if t.fill == fill) for fill in (None, "toself"))
    assert line.x == (0, 1, 2, 3, 4) and line.y == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5))
    assert band.y[4:6] == pytest.approx((0.6, 0.4)) and {t.legendgroup for t in fig.data} == {line.name}
    assert "attack success 50.0%, mean of 2 runs<br>40.0% to 60.0%" in line.hovertext[4]
    assert fig.layout.yaxis.title.text == "attack success (lower is better)"
    assert fig.layout.yaxis.tickformat == ".0%" and "mean of 2 runs" in fig.layout.meta["caption"]


def test_attack_success_of_a_single_round_has_a_row_for_each_setting(make_sweep):
    points = [{"defence": name} for name in ("none", "median")]
    rounds = analysis.load(make_sweep(points)).rounds
    rounds = rounds[(rounds["method"] == "federated_distillation") & (rounds["round"] == 4)]
    fell = {"none": 0.2, "median": 0.6}
    rounds = rounds.assign(
        attack_success=[
            fell[s.split("=")[1]] + k / 10 for s, k in zip(rounds["setting"], rounds["seed"], strict=True)
        ]
    )
    fig = figures.attack_success(rounds)
    (marks,) = fig.data
    assert row_names(fig) == ["defence=median", "defence=none"]
    assert marks.x == pytest.approx((0.65, 0.25)) and marks.y == (0, 1)
    assert marks.customdata == ("defence=median", "defence=none")
    assert fig.layout.meta["caption"] == "After round 4; every mark is the mean of up to 2 runs."


def test_all_of_a_figure_is_of_the_run_that_it_names(make):
    """The first run has no participants, and a score of its own."""
    first = make(
        "central", methods=("centralized", "federated_distillation"), worse=200.0, without=("participants",)
    )
    tables = analysis.load([first, make("whole", seed=1)], strict=False)
    fig = figures.gain(tables.participants, tables.rounds)
    assert "4 of 5 specialists score better" in fig.layout.meta["caption"]
    (student,) = traces(fig, name="the student")
    assert student.x == pytest.approx((49.0, 49.0))  # of seed 1, not 248

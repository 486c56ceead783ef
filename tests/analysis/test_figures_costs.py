"""What figures of messages, time and memory draw: values, order, units."""

import pandas as pd
import pytest

import analysis
from analysis import figures, style
from analysis.figures import institutions


@pytest.fixture
def tables(run):
    return analysis.load(run)


def trace(fig, name):
    (found,) = (t for t in fig.data if t.name == name)
    return found


def test_anatomy_divides_the_bytes_by_section(tables):
    fig = figures.anatomy(tables.sections, tables.rounds)
    names = fig.layout.yaxis.ticktext
    assert names[:2] == ("Federated distillation ▼<br>300 kB", "Federated distillation ▲<br>800 kB")
    narrow = fig.layout.meta["narrow"]
    assert narrow["yaxis.ticktext"][0] == "Federated<br>distillation ▼<br>300 kB"
    assert narrow["height"] == fig.layout.height + 20 * len({t.name for t in fig.data})
    ids, header = trace(fig, "class ids"), trace(fig, "header and table")
    assert dict(zip(ids.y, ids.x, strict=True)) == {0: 25.0, 1: 25.0}
    # 34 of 15,000 bytes down.
    assert dict(zip(header.y, header.x, strict=True))[0] == pytest.approx(100 * 34 / 15_000)
    whole = sum(dict(zip(t.y, t.x, strict=True)).get(1, 0) for t in fig.data)
    assert whole == pytest.approx(100)
    # The largest section comes first: FedAvg's parameters.
    assert fig.data[0].name == "parameters" and fig.layout.xaxis.title.text == "share of the bytes, %"
    assert "class ids</b>, up<br>200 kB, 25.0%" in ids.hovertext[1]


def test_the_stages_of_a_run_are_those_of_its_compressed_messages(tables):
    table = figures.stages(tables.measures, tables.rounds)
    # Four rounds of 200,000 bytes each; FedAvg's parameters pass no stage.
    assert table.to_dict("list") == {
        "message": ["Federated distillation"] * 4,
        "stage": ["float32", "quantised", "what is not zero", "coded, as sent"],
        "bytes": [160e6, 40e6, 1.6e6, 0.8e6],
        "colour": [style.BLUE] * 4,
    }
    (line,) = figures.codec_stages(table).data
    assert line.text == ("÷ 1.00", "÷ 4.00", "÷ 100", "÷ 200")
    assert line.hovertext[3] == "<b>coded, as sent</b><br>800 kB"


def test_codec_stages_are_in_the_order_of_the_codec():
    table = pd.DataFrame({
        "message": ["responses"] * 3, "stage": ["float32", "quantised", "entropy-coded"],
        "bytes": [4_096_000, 80_000, 20_480],
    })  # fmt: skip
    fig = figures.codec_stages(table)
    (line,) = fig.data
    assert line.x == (4_096_000, 80_000, 20_480) and line.y == (0, 1, 2)
    assert line.text == ("÷ 1.00", "÷ 51.2", "÷ 200") and fig.layout.xaxis.type == "log"
    assert fig.layout.yaxis.ticktext == ("float32", "quantised", "entropy-coded")
    assert set(line.textposition) == {"bottom right"}
    (back,) = figures.codec_stages(table.assign(bytes=[4_096_000, 20_480, 80_000])).data
    assert back.textposition == ("bottom right", "middle left", "bottom right")  # not under the line


def test_clock_puts_rounds_one_after_the_other(tables):
    fig = figures.clock(tables.participants, tables.rounds)
    compute, wait = trace(fig, "compute"), trace(fig, "wait")
    mine = [(b, x) for b, x, y in zip(compute.base, compute.x, compute.y, strict=True) if y == 0]
    assert mine == [(1, 4), (26, 4), (51, 4), (76, 4)]  # 1 s of download, rounds of 25 s
    idle = [(b, x) for b, x, y in zip(wait.base, wait.x, wait.y, strict=True) if y == 0]
    assert idle[0] == (7, 18)
    boss = trace(fig, "coordinate")
    assert boss.base == (19, 44, 69, 94) and boss.x == (6,) * 4 and boss.y == (5,) * 4
    # 18 + 15 + 12 + 9 + 6 of 5 · 25.
    assert "participants wait 48% of the time" in fig.layout.meta["caption"]
    assert fig.layout.xaxis.title.text == "virtual time of the run, s"


def test_clock_shows_the_last_rounds_of_a_long_run(tables):
    rounds = pd.concat([tables.rounds.assign(round=tables.rounds["round"] + 5 * k) for k in range(5)])
    people = pd.concat([
        tables.participants.assign(round=tables.participants["round"] + 5 * k) for k in range(5)
    ])  # fmt: skip
    fig = figures.clock(people, rounds)
    assert "its last 12 rounds" in fig.layout.meta["caption"]


def test_device_hours_add_up_all_participants(tables):
    fig = figures.device_hours(tables.participants, tables.rounds)
    assert fig.layout.yaxis.ticktext == ("Federated<br>distillation", "FedAvg")
    # A round: 4 + 7 + 10 + 13 + 16 s of computation, 5 · 3 s of transfers, 5 · 25 s in all; four rounds.
    assert trace(fig, "computing").x[0] == pytest.approx(200 / 60)
    assert trace(fig, "sending and receiving").x[0] == pytest.approx(60 / 60)
    assert trace(fig, "waiting").x[0] == pytest.approx((500 - 260) / 60)
    assert fig.layout.xaxis.title.text == "device time, min"


def test_device_hours_are_per_run(make):
    both = analysis.load([make("a"), make("b", seed=1)])
    fig = figures.device_hours(both.participants, both.rounds)
    assert trace(fig, "computing").x[0] == pytest.approx(200 / 60)
    assert "mean of 2 runs" in fig.layout.meta["caption"]


def test_memory_is_the_largest_of_the_runs(make):
    both = analysis.load([make("a"), make("b", seed=1)])
    rounds = both.rounds.copy()
    late = (rounds["run"] == "b") & (rounds["round"] == 4)
    rounds.loc[late, "peak_memory_mib"] = 512.0
    line = trace(figures.memory(rounds), "FedAvg")
    assert line.x == (1, 2, 3, 4) and line.y == (400, 400, 400, 512)
    fig = figures.memory(rounds)
    assert fig.layout.yaxis.title.text == "peak memory, MiB" and fig.layout.xaxis.dtick == 1


def test_equity_relates_gain_to_contribution(tables):
    fig = figures.equity(tables.participants, tables.rounds)
    llama, gpt = trace(fig, "llama-tiny"), trace(fig, "gpt2-tiny")
    # 100 to 500 of 1,500 examples; 80 → 62 is 22.5 % better, 120 → 130 is 8.3 % worse.
    assert llama.x == pytest.approx((100 / 15, 20, 500 / 15)) and llama.text == ("0", "2", "4")
    assert llama.y == pytest.approx((22.5, 28, -100 / 12))
    assert gpt.y == pytest.approx((100 * 23 / 90, 30))
    caption = "4 of 5 specialists gain; rank correlation of gain and contribution +0.00."
    assert fig.layout.meta["caption"] == caption
    assert fig.layout.yaxis.title.text == "gain in perplexity for taking part, %"


def test_equity_names_participants_only_where_there_is_room(tables, monkeypatch):
    monkeypatch.setattr("analysis.figures.institutions.NUMBERED", 4)
    crowded = figures.equity(tables.participants, tables.rounds)
    assert {t.mode for t in crowded.data} == {"markers"}
    assert "participant 0</b>" in trace(crowded, "llama-tiny").hovertext[0]


def test_equity_leaves_out_who_scores_0_alone(tables):
    people = tables.participants.copy()
    mine = (people["method"] == "solo") & (people["participant"] == 2)
    people.loc[mine & people["score"].notna(), "score"] = 0.0
    fig = figures.equity(people, tables.rounds)
    assert trace(fig, "llama-tiny").text == ("0", "4") and trace(fig, "gpt2-tiny").text == ("1", "3")
    caption = fig.layout.meta["caption"]
    assert caption.startswith("3 of 4 specialists gain")
    assert "; left out, as 0 alone has no percentage: 2." in caption
    people.loc[(people["method"] == "solo") & people["score"].notna(), "score"] = 0.0
    with pytest.raises(analysis.NoDataError, match="every institution scores 0 alone"):
        figures.equity(people, tables.rounds)


def test_device_hours_of_a_contender_in_which_nobody_worked(tables):
    people, rounds = tables.participants.copy(), tables.rounds.copy()
    idle = people["method"] == "fedavg"
    people.loc[idle, ["down_s", "compute_s", "up_s"]] = 0.0
    rounds.loc[rounds["method"] == "fedavg", "virtual_s"] = 0.0
    computing = trace(figures.device_hours(people, rounds), "computing")
    assert computing.x[1] == 0 and computing.hovertext[1].endswith(", 0%")


def test_clock_of_a_run_in_whose_last_rounds_nobody_worked(tables, monkeypatch):
    monkeypatch.setattr(institutions, "CLOCK_ROUNDS", 2)
    people, rounds = tables.participants.copy(), tables.rounds.copy()
    people.loc[people["round"] > 2, ["down_s", "compute_s", "up_s"]] = 0.0
    rounds.loc[rounds["round"] > 2, "virtual_s"] = 0.0
    with pytest.raises(analysis.NoDataError, match="in the last 2 rounds"):
        figures.clock(people, rounds)

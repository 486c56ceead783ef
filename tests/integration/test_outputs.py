"""What a run leaves behind, and the ways to start one: folder, tables, student, commands, Python."""

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

import fedsim
from fedsim import simulation
from fedsim.loading import load
from fedsim.results import SUMMARY, TABLES

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(params=["digits", "text"])
def run(request):
    """Each of the two undisturbed runs: images in one process, text on Ray."""
    return simulation.Result(request.getfixturevalue(f"{request.param}_run"))


def test_the_folder_holds_what_is_promised(run):
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    tables = {f"{name}.parquet" for name in TABLES}
    assert names == {
        "config.yaml", "manifest.json", "summary.json", "checkpoints", "student", "report.html", *tables
    }  # fmt: skip


def test_the_config_reloads_to_the_same(run):
    config = load(run.folder / "config.yaml")
    assert load(yaml.safe_load((run.folder / "config.yaml").read_text())) == config
    tree = config.model_dump(mode="json")
    assert tree == yaml.safe_load((run.folder / "config.yaml").read_text()), "every default is written out"
    assert Path(config.output) == run.folder


def test_the_manifest_says_with_what_and_on_what(run):
    facts = json.loads((run.folder / "manifest.json").read_text())
    assert facts["status"] == "finished" and facts["seed"] == 0
    assert facts["finished"] >= facts["started"] > 1.7e9
    for library in ("fedsim", "ray", "torch", "transformers", "deepspeed", "numpy"):
        assert facts["versions"][library] == version(library)
    assert facts["versions"]["python"].startswith("3.")
    assert facts["hardware"]["cpus"] >= 1 and facts["hardware"]["memory_gib"] > 0.5
    prints = facts["data"]["fingerprints"]
    assert {"proxy", "validation", "test", "private"} <= prints.keys()
    assert len(set(prints.values())) == len(prints) and all(len(p) == 32 for p in prints.values())
    assert len(facts["data"]["examples"]["private"]) == load(run.folder / "config.yaml").participants.count


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_documented_columns(run, name):
    schema = pq.read_schema(run.folder / f"{name}.parquet")
    assert schema.names == list(TABLES[name])
    for field in schema:
        kind, doc = TABLES[name][field.name]
        assert field.type == kind and field.metadata[b"doc"].decode() == doc
    assert schema.metadata[b"fedsim_table"].decode() == name


def test_rounds_are_all_there(run):
    config = load(run.folder / "config.yaml")
    for method in config.methods:
        rows = run.rounds[run.rounds.method == method.contender]
        first = 1 if method.name == "solo" else 0  # single institutions have no common start to score
        assert list(rows["round"]) == list(range(first, config.rounds + 1))
    trained = run.rounds[run.rounds.algorithm != "solo"]
    assert np.isfinite(trained.score).all() and np.isfinite(trained.loss).all()
    start = trained[trained["round"] == 0]
    assert start.score.nunique() == 1, "everybody starts with the same student"


def test_messages_add_up_to_the_bytes_of_the_rounds(run):
    counted = run.messages.groupby(["method", "round", "direction"]).bytes.sum()
    people = run.participants.groupby(["method", "round"])[["bytes_up", "bytes_down"]].sum()
    for row in run.rounds.itertuples():
        for direction, total in (("up", row.bytes_up), ("down", row.bytes_down)):
            assert counted.get((row.method, row.round, direction), 0) == total
            if (row.method, row.round) in people.index:
                assert people.loc[(row.method, row.round), f"bytes_{direction}"] == total
    assert (run.messages.status == "delivered").all()
    assert (run.messages.bytes > 0).all()
    sending = {"federated_distillation", "readout", "fedavg"}
    assert set(run.messages.method) == set(run.rounds.method) & sending


def test_the_summary_is_a_list_with_a_row_per_contender(run):
    rows = json.loads((run.folder / "summary.json").read_text())
    assert isinstance(rows, list) and all(row.keys() == SUMMARY.keys() for row in rows)
    needed = "contender metric higher_is_better score ratio_to_centralized bytes_up bytes_down virtual_s"
    assert set(needed.split()) <= SUMMARY.keys()
    names = [m.contender for m in load(run.folder / "config.yaml").methods if m.name != "solo"]
    assert {row["contender"] for row in rows} == {*names, "solo_best", "solo_mean"}
    assert run.summary.score.tolist() == [row["score"] for row in rows], "to the last bit"
    table = {row["contender"]: row for row in rows}
    for name in names:
        mine = run.rounds[run.rounds.method == name]
        assert table[name]["score"] == mine.score.iloc[-1]
        assert table[name]["bytes_up"] == mine.bytes_up.sum()
        assert table[name]["bytes_down"] == mine.bytes_down.sum()
    alone = run.participants[(run.participants.method == "solo")].score.dropna()
    better = alone.max() if rows[0]["higher_is_better"] else alone.min()
    assert table["solo_best"]["score"] == better
    assert table["solo_mean"]["score"] == pytest.approx(alone.mean())
    if "centralized" in table:
        assert table["centralized"]["ratio_to_centralized"] == 1.0
    else:
        assert all(row["ratio_to_centralized"] is None for row in rows)


def test_the_student_is_the_one_that_was_scored(run, score_of_student):
    recorded = run.rounds[run.rounds.method == "federated_distillation"].iloc[-1]
    score, loss = score_of_student(run.folder)
    assert score == pytest.approx(recorded.score, rel=1e-5)
    assert loss == pytest.approx(recorded.loss, rel=1e-5)


def test_the_text_student_comes_with_its_tokenizer(text_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fedsim.data import federation

    tokenizer = AutoTokenizer.from_pretrained(text_run / "student")
    model = AutoModelForCausalLM.from_pretrained(text_run / "student")
    assert len(tokenizer) == model.config.vocab_size == 300
    text = "def f(x):\n    return x + 1  # ∑\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    plan = federation.plan(load(text_run / "config.yaml"))
    document = plan.raw.documents[plan.splits["test"][0]]
    window = federation.build(plan).public.test.arrays["input_ids"][0]
    assert tokenizer(document)["input_ids"][: len(window) - 1] == list(window[: len(window) - 1])
    out = model.generate(**tokenizer("import ", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] <= 64


def test_the_image_student_comes_with_its_processor(digits_run):
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from fedsim.modalities import modality
    from fedsim.types import Examples

    processor = AutoImageProcessor.from_pretrained(digits_run / "student")
    model = AutoModelForImageClassification.from_pretrained(digits_run / "student").eval()
    assert model.config.id2label == {k: str(k) for k in range(10)}
    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    examples = Examples({"pixel_values": image[None, None]}, np.zeros(1, np.int64), np.zeros(1, np.uint64))
    trained_on = modality("image").inputs(examples, np.arange(1), torch.device("cpu"))["pixel_values"]
    for given in (image[None], image[..., None]):  # channels first or last
        pixels = processor(given, return_tensors="pt", input_data_format=_format(given))["pixel_values"]
        torch.testing.assert_close(pixels, trained_on, rtol=0, atol=1e-6)
    assert model(trained_on).logits.shape == (1, 10)


def _format(image):
    return "channels_first" if image.shape[0] == 1 else "channels_last"


def test_the_model_card_states_data_method_scores_and_bytes(run):
    card = (run.folder / "student" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    product = run.summary.set_index("contender").loc["federated_distillation"]
    data = json.loads((run.folder / "manifest.json").read_text())["data"]
    for part in (
        data["description"], data["origin"], "federated distillation", f"{product.score:.4g}",
        f"{product.bytes_up:,} up", f"{product.bytes_down:,} down",
    ):  # fmt: skip
        assert part in card, part


def test_the_report_is_one_file_that_stands_alone(run):
    page = run.report.read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "federated_distillation" in page
    fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="([^"]*)"', page)
    assert all(address.startswith("data:") for address in fetched), fetched


def test_from_python(configs, clean_process, tmp_path):
    config = fedsim.load(configs["distil"], rounds=1, output=str(tmp_path / "run"))
    result = fedsim.run(config)
    assert result.folder == tmp_path / "run" and config.rounds == 1
    for name in ("rounds", "participants", "messages"):
        table = getattr(result, name)
        assert isinstance(table, pd.DataFrame) and list(table.columns) == list(TABLES[name])
    assert list(result.summary.contender) == ["federated_distillation"]
    assert result.report.exists() and result.student.is_dir()
    with pytest.raises(fedsim.ConfigError, match="in use"):
        fedsim.run(config)


def test_the_command_shows_progress_and_ends_with_the_table(digits_command):
    folder, done = digits_command
    assert "federated_distillation round 3/3: accuracy" in done.err
    *_, report, student = done.out.splitlines()
    assert report.split() == ["report", str(folder / "report.html")]
    assert student.split() == ["student", str(folder / "student")]
    for contender in ("federated_distillation", "fedavg", "solo_best", "solo_mean", "centralized"):
        assert contender in done.out
    assert "accuracy" in done.out


def test_the_short_command_is_the_same(fedsim_command):
    program = Path(sys.executable).parent / "fedsim"
    if not program.exists():
        pytest.skip("the package is not installed as a command")
    short, module = fedsim_command("--help", program=(str(program),)), fedsim_command("--help")
    assert short.out == module.out


def test_validate_starts_nothing(fedsim_command, configs, tmp_path):
    done = fedsim_command("validate", configs["digits"], f"output={tmp_path / 'run'}")
    assert "valid" in done.out and "5 participants" in done.out and "fedavg" in done.out
    assert not (tmp_path / "run").exists()


def test_report_of_two_runs(fedsim_command, digits_run, tmp_path):
    other = shutil.copytree(digits_run, tmp_path / "other")
    target = tmp_path / "both.html"
    done = fedsim_command("report", digits_run, other, "-o", target)
    assert done.out.strip() == str(target) and target.stat().st_size > 10_000


def test_the_schema_accepts_the_experiments(fedsim_command, configs, digits_run):
    schema = json.loads(fedsim_command("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    files = [*EXPERIMENTS.glob("quickstart*.yaml"), *configs.values(), digits_run / "config.yaml"]
    assert len(files) >= 6
    for file in files:
        check.validate(_as_editors_read(yaml.safe_load(file.read_text())))
    for wrong in ({"participant": {}}, {"rounds": 0}, {"data": {"split": {"proxy": 1.5}}}):
        assert list(check.iter_errors(wrong)), wrong


def _as_editors_read(tree):
    """Editors read YAML 1.2, where 5.0e10 is a number; PyYAML reads 1.1, where it is text."""
    if isinstance(tree, dict):
        return {key: _as_editors_read(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_as_editors_read(value) for value in tree]
    try:
        return float(tree) if isinstance(tree, str) else tree
    except ValueError:
        return tree


def test_doctor_finds_nothing_missing(fedsim_command):
    done = fedsim_command("doctor")
    assert "FAIL" not in done.out
    for check in ("ray", "deepspeed", "compiler", "gpu", "disk"):
        assert f"  {check} " in done.out

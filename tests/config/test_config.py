"""The config: reading, overriding, writing; and every mistake that is found before anything starts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fedsim import config as configs
from fedsim import loading
from fedsim.cli import main
from fedsim.config import RunConfig, trees
from fedsim.errors import ConfigError

IMAGES: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "max_examples": 120},
    "participants": {"count": 2, "models": ["vit-micro"], "partition": {"minimum": 5}},
    "student": {"model": "vit-micro"},
    "methods": ["federated_distillation", {"name": "fedprox", "specialists": "student"}, "centralized"],
}

# Reading ------------------------------------------------------------------------------------------


def test_a_written_config_reads_as_thesame(tmp_path: Path):
    config = loading.load(IMAGES, seed=7, student__training__learning_rate=3e-4)
    (tmp_path / "written.yaml").write_text(configs.to_yaml(config), encoding="utf-8")
    assert loading.load(tmp_path / "written.yaml") == config


def test_everything_has_a_default_and_nothing_can_be_assigned():
    config = loading.load()
    assert config == RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.data.split.proxy = 0.1  # type: ignore[misc]


def test_overrides_reach_every_depth_and_leave_the_callers_tree_alone():
    before = yaml.safe_dump(IMAGES)
    config = loading.load(
        IMAGES,
        **{"participants.count": 3, "methods.1.mu": 0.5, "methods.2.label": "bound", "data.split.test": 0.3},
        data__split__proxy=0.25,
    )
    assert (config.participants.count, config.data.split.proxy, config.data.split.test) == (3, 0.25, 0.3)
    assert config.methods[1].options == {"mu": 0.5}
    assert config.methods[2].name == "centralized"  # named by a bare string, which an override opens up
    assert config.methods[2].contender == "bound"
    assert yaml.safe_dump(IMAGES) == before


def test_a_demand_is_one_for_all_or_a_list(tmp_path: Path):
    one = loading.load(IMAGES, runtime={"participant": {"gpus": 0.25}})
    assert [demand.gpus for demand in one.runtime.participant] == [0.25]
    (tmp_path / "config.yaml").write_text(configs.to_yaml(one))
    again = loading.load(tmp_path / "config.yaml", **{"runtime.participant.gpus": 0.5})
    assert [demand.gpus for demand in again.runtime.participant] == [0.5]
    two = loading.load(IMAGES, runtime={"participant": [{"gpus": 0.25}, {"cpus": 1}]})
    (tmp_path / "config.yaml").write_text(configs.to_yaml(two))
    assert loading.load(tmp_path / "config.yaml") == two
    again = loading.load(tmp_path / "config.yaml", **{"runtime.participant.1.gpus": 0.5})
    assert [(demand.cpus, demand.gpus) for demand in again.runtime.participant] == [(0.2, 0.25), (1, 0.5)]


def test_a_base_is_laid_under_the_file_that_names_it(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text(yaml.safe_dump({**IMAGES, "rounds": 9, "seed": 1}))
    (tmp_path / "middle.yaml").write_text("base: root.yaml\nseed: 2\ndata: {split: {proxy: 0.3}}\n")
    (tmp_path / "deep" / "top.yaml").write_text("base: ../middle.yaml\nmethods: [solo]\n")
    config = loading.load(tmp_path / "deep" / "top.yaml")
    assert (config.rounds, config.seed, config.data.split.proxy) == (9, 2, 0.3)
    assert config.data.source == "digits"  # a mapping is merged …
    assert [m.name for m in config.methods] == ["solo"]  # … and a list replaced


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("seed=3", "seed", 3),
        ("a.b=1e-3", "a.b", 1e-3),  # YAML 1.1 itself would read a text
        ("a=[x, y]", "a", ["x", "y"]),
        ("data.path=a=b.csv", "data.path", "a=b.csv"),
        ("output=", "output", None),
        ("flag=true", "flag", True),
    ],
)
def test_an_override_is_read_as_yaml(text: str, field: str, value: object):
    assert trees.parse_override(text) == (field, value)


def test_the_schema_carries_the_fields_descriptions():
    def walk(node: Any) -> set[str]:
        if isinstance(node, dict):
            return {str(node.get("description", ""))} | {d for v in node.values() for d in walk(v)}
        return {d for v in node for d in walk(v)} if isinstance(node, list) else set()

    assert any("0.1 very uneven" in text for text in walk(RunConfig.model_json_schema()))


# Mistakes -----------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path, monkeypatch, capsys) -> Callable[..., str]:
    """`refused("run", tree, "field=value", …)` → the one line that the command answers with."""
    monkeypatch.chdir(tmp_path)

    def ask(command: str, tree: dict[str, Any] | str, *arguments: str) -> str:
        text = tree if isinstance(tree, str) else yaml.safe_dump(tree)
        Path("config.yaml").write_text(text, encoding="utf-8")
        return answer(command, "config.yaml", *arguments)

    def answer(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err
        assert not started()
        return said.err

    ask.answer = answer  # type: ignore[attr-defined]
    return ask


def started() -> bool:
    """Whether a Ray instance is connected; importing ray would itself be a part of the answer."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


WRONG = {
    # name: (overrides, what the line must say)
    "unknown field": (["participants.cuont=3"], ["participants.cuont", "3", "did you mean count?"]),
    "unknown part": (["participant.count=3"], ["participant", "3", "did you mean participants?"]),
    "unknown field in a list": (["participants.links=[{los: 0.1}]"], ["links.0.los", "0.1", "loss?"]),
    "field below a value": (["name.first=x"], ["name.first", "'x'", "holds no fields"]),
    "index out of a list": (["methods.9.mu=1"], ["methods.9.mu", "'9'", "an index below 3"]),
    "no override": (["seed"], ["override", "'seed'", "field=value"]),
    "wrong type": (["rounds=many"], ["rounds", "'many'", "integer"]),
    "wrong type of two": (
        ["runtime.participants_per_actor=few"],
        ["participants_per_actor: 'few'", "integer"],
    ),
    "not a mapping": (["data=3"], ["data", "3", "expected a mapping of fields"]),
    "alpha 0": (["participants.partition.alpha=0"], ["partition.alpha", " 0 ", "greater than 0"]),
    "alpha negative": (["participants.partition.alpha=-1"], ["partition.alpha", "-1", "greater than 0"]),
    "alpha not a number": (["participants.partition.alpha=.nan"], ["partition.alpha", "nan", "finite"]),
    "infinite": (["student.training.weight_decay=.inf"], ["student.training.weight_decay", "inf", "finite"]),
    "too many participants": (["participants.count=40"], ["participants.count", "40", "at most 15"]),
    "unknown partition": (["participants.partition.kind=even"], ["partition.kind", "'even'", "dirichlet"]),
    "unknown source": (["data.source=minist"], ["data.source", "'minist'", "digits, files"]),
    "unknown preset": (["participants.models=[vit-hug]"], ["participants.models.0", "'vit-hug'", "vit-tiny"]),
    "unknown student": (["student.model=vit-hug"], ["student.model", "'vit-hug'", "vit-tiny"]),
    "preset of another modality": (["student.model=llama-tiny"], ["student.model", "llama-tiny", "image"]),
    "unknown method": (["methods=[fedagv]"], ["methods.0.name", "'fedagv'", "did you mean fedavg?"]),
    "unknown setting": (["methods.1.nu=1"], ["methods.1.nu", "1", "mu"]),
    "setting of a method without any": (
        ["methods.2.mu=1"],
        ["methods.2.mu", "1", "label, name, specialists"],
    ),
    "negative setting": (["methods.1.mu=-1"], ["methods.1.mu", "-1", "greater than or equal to 0"]),
    "infinite setting": (["methods.0.confidence=.inf"], ["methods.0.confidence", "inf", "finite"]),
    "setting of the wrong type": (["methods.0.levels=x"], ["methods.0.levels", "'x'", "integer"]),
    "setting out of a choice": (["methods.0.quantiser=x"], ["methods.0.quantiser", "'x'", "'systematic'"]),
    "duplicated method": (["methods=[solo, solo]"], ["methods.1.label", "'solo'", "no other contender"]),
    "duplicated label": (
        ["methods=[solo, {name: centralized, label: solo}]"],
        ["methods.1.label", "'solo'", "no other contender"],
    ),
    "label that is no file name": (["methods.0.label=a/b"], ["methods.0.label", "'a/b'", "pattern"]),
    "no method": (["methods=[]"], ["methods", "[]", "at least 1"]),
    "average of different architectures": (
        ["methods=[fedavg]", "participants.models=[vit-micro, vit-tiny]"],
        ["methods.0.specialists", "'participants'", "`student`", "vit-micro, vit-tiny"],
    ),
    "proxy_only without labels": (["methods=[proxy_only]"], ["methods.0.name", "'proxy_only'", "labelled"]),
    "pretraining without labels": (["pretraining.steps=5"], ["pretraining.steps", "5", "unlabelled"]),
    "empty validation": (["data.split.validation=0"], ["data.split.validation", "0.0", "larger fraction"]),
    "empty test": (["data.split.test=0"], ["data.split.test", "0.0", "larger fraction"]),
    "empty proxy": (["data.split.proxy=0"], ["data.split.proxy", "0.0", "larger fraction"]),
    "nothing private": (["data.split={test: 0.5, proxy: 0.5}"], ["data.split", "0.5", "below 1"]),
    "modality of another source": (["data.modality=text"], ["data.modality", "'text'", "image"]),
    "files of no modality": (
        ["data={source: files, path: x.csv}"],
        ["data.modality", "None", "text, image or image_text"],
    ),
    "offload without its optimiser": (["student.engine.offload=cpu"], ["student.engine", "'cpu'", "fused"]),
    "an optimiser that is another's": (
        ["student.engine.optimizer=fused", "student.training.optimizer=sgd"],
        ["student", "adamw", "sgd"],
    ),
    "an optimiser that is not sharded": (
        ["student.engine.zero_stage=1", "student.training.optimizer=sgd"],
        ["student", "zero_stage: 0"],
    ),
    "less GPU than Ray can count": (
        ["runtime.participant=[{gpus: 0.5}, {gpus: 1e-5}]"],
        ["runtime.participant.1", "1e-5", "at least 0.0001"],
    ),
    "memory below none": (["runtime.participant.memory_mib=-1"], ["runtime.participant.memory_mib", "-1"]),
    "part of a second GPU": (["runtime.participant.gpus=1.5"], ["runtime.participant", "1.5", "whole"]),
    "truth for a number": (["participants.count=yes"], ["participants.count", "True", "than true or false"]),
    "truth for a mapping": (["evaluation.few_shot=yes"], ["few_shot", "True", "a mapping of fields, {} for"]),
    "number for a truth": (["methods.0.feedback=2"], ["methods.0.feedback", "2", "true or false"]),
    "text for a number": (["student.training.learning_rate=x"], ["learning_rate", "'x'", "a number\n"]),
    "number for a text": (["name=3"], ["name: 3", "expected text"]),
    "one for a list": (["participants.models=mlp"], ["participants.models", "'mlp'", "expected a list"]),
    "list of none": (["participants.models=[]"], ["participants.models", "[]", "a list of at least 1"]),
    "field without a value": (["evaluation="], ["evaluation", "None", "a mapping of fields"]),
    "neither of several types": (["methods.0.levels=many"], ["levels", "integer or a list or 'dadaquant'"]),
    "name of another folder": (["name=../a"], ["name", "'../a'", "no slash"]),
    "vast minimum": (
        ["participants.partition.minimum=10000"],
        ["partition.minimum", "10000", "at most 7"],
    ),
    "unknown attack": (["participants.adversary.kind=lie"], ["adversary.kind", "'lie'", "'label_flip', "]),
    "nobody honest": (["participants.adversary.share=1.0"], ["adversary.share", "1.0", "less than 1"]),
    "unknown defence": (["methods.0.defence=meddian"], ["methods.0.defence", "'meddian'", "'median'"]),
    "too many suspected": (["methods.0.suspected=0.6"], ["methods.0.suspected", "0.6", "less than 0.5"]),
    "negative ε": (["participants.privacy.epsilon=-1"], ["privacy.epsilon", "-1", "greater than 0"]),
    "ε that no noise gives": (
        ["participants.privacy.epsilon=0.0001", "participants.training.batch_size=4"],
        ["participants.privacy.epsilon", "0.0001", "more: no noise is enough"],
    ),
    "ε and noise": (["participants.privacy={epsilon: 8, noise: 1}"], ["privacy", "either epsilon or noise"]),
    "negative weight": (["methods.0.features.weight=-1"], ["features.weight", "-1", "or equal to 0"]),
    "unknown reference": (["methods.0.delta=down"], ["methods.0.delta", "'down'", "'none', 'up' or 'both'"]),
    "unknown coder": (["methods.0.coder=gzip"], ["methods.0.coder", "'gzip'", "'ans', 'huffman' or 'raw'"]),
    "no message fits": (
        ["runtime.message_limit_mib=0"],
        ["runtime.message_limit_mib", "0", "greater than or equal to 0.001"],
    ),
    "more than any set": (
        ["student.training.batch_size=100000000"],
        ["student.training.batch_size", "100000000", "less than or equal to 1048576"],
    ),
    "a setting of other sources": (
        ["data.source=digits", "data.label_names=[zero, one]"],
        ["data.label_names", "('zero', 'one')", "nothing: digits doesn't read it"],
    ),
    "unequal shares": (["student.engine.ranks=3"], ["student", "'ranks': 3", "a multiple of engine.ranks"]),
    "output that is a file": (["output=config.yaml"], ["output", "'config.yaml'", "a folder, not a file"]),
    "output below a file": (["output=config.yaml/x"], ["output", "'config.yaml/x'", "can be written to"]),
    "output in memory": (["output=memory://a/b"], ["output", "'memory://a/b'", "outlasts this process"]),
    "energy unknown": (["evaluation.co2e_g_per_kwh=250"], ["co2e_g_per_kwh", "250", "flops_per_joule for"]),
    "vast adapter": (["participants.adapter.rank=100000"], ["adapter.rank", "100000", "or equal to 4096"]),
    "output nobody knows": (["output=foo://bar"], ["output", "'foo://bar'", "a URI that can be reached"]),
}


@pytest.mark.parametrize(("overrides", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_one_line_and_status_2(refused, overrides: list[str], said: list[str]):
    line = refused("run", IMAGES, *overrides)
    assert all(part in line for part in said), line
    assert not Path("runs").exists()  # nothing was begun


BROKEN = {
    "not YAML": ("a: [", ["config.yaml", "valid YAML"]),
    "no mapping": ("- 1\n", ["config.yaml", "a mapping"]),
    "base of itself": ("base: config.yaml\n", ["base", "'config.yaml'", "another YAML file"]),
    "base that is no path": ("base: 3\n", ["base", "3", "another YAML file"]),
    "base that is missing": ("base: gone.yaml\n", ["config", "gone.yaml", "existing"]),
    "method without a name": ("methods: [{levels: 3}]\n", ["methods.0.name", "levels", "required"]),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_line_and_status_2(refused, text: str, said: list[str]):
    line = refused("validate", text)
    assert all(part in line for part in said), line


def test_a_missing_config_is_named(refused):
    assert "config: 'gone.yaml'" in refused.answer("run", "gone.yaml")
    assert "'folder' is not valid; expected a YAML file, not a folder" in (
        Path("folder").mkdir() or refused.answer("run", "folder")
    )
    assert "experiments/quickstart.yaml" in refused.answer("run")


TEXTS = {
    "data": {"source": "files", "modality": "text", "path": "rows.csv"},
    "participants": {"count": 2, "models": ["llama-tiny"], "partition": {"minimum": 2}},
    "student": {"model": "llama-tiny"},
    "methods": ["solo"],
}


def test_missing_data_is_named(refused):
    line = refused("run", TEXTS)
    assert "data.path: 'rows.csv' is not valid; expected an existing file" in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.text_column=body", ["data.text_column", "'body'", "text, topic"]),
        ("data.label_column=label", ["data.label_column", "'label'", "text, topic"]),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(refused, override: str, said: list[str]):
    rows = "".join(f'"document {n} of a small table",t{n % 2}\n' for n in range(60))
    Path("rows.csv").write_text("text,topic\n" + rows)
    line = refused("run", TEXTS, override)
    assert all(part in line for part in said), line


def test_a_folder_in_use_is_not_written_to(refused):
    Path("used").mkdir()
    Path("used/mine.txt").write_text("keep")
    line = refused("run", IMAGES, "output=used")
    assert "output: 'used'" in line
    assert "--resume used" in line
    assert [p.name for p in Path("used").iterdir()] == ["mine.txt"]


def test_a_place_that_can_not_be_written_to_is_named(refused, small_disk: Path):
    folder = small_disk / "run"
    with pytest.raises(OSError, match="No space"), (small_disk / "all").open("wb") as file:
        while True:
            file.write(bytes(2**16))
    said = refused("run", IMAGES, f"output={folder}")
    assert "fedsim: output: '" in said
    assert "is not valid; expected a folder on a disk that has room" in said
    assert not folder.exists()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "expected a folder that can be written to" in refused("run", IMAGES, f"output={folder}")


def test_a_folder_without_a_run_can_not_be_resumed(refused):
    Path("empty").mkdir()
    line = refused.answer("run", "--resume", "empty")
    assert "resume: 'empty'" in line
    assert "config.yaml" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=5", ["resume: seed", " 5 ", "0, as the run began"]),
        ("methods.1.mu=0.5", ["resume: methods.1.mu", "0.5", "None"]),
        ("runtime.threads=2", ["resume: runtime.threads", " 2 ", "1, as the run began"]),
    ],
)
def test_a_run_is_not_resumed_with_another_config(refused, change: str, said: list[str]):
    Path("earlier").mkdir()
    Path("earlier/config.yaml").write_text(configs.to_yaml(loading.load(IMAGES)))
    for line in (
        refused("run", IMAGES, change, "--resume", "earlier"),
        refused("run", IMAGES, "--resume", "earlier", change),
        refused.answer("run", "--resume", "earlier", change),  # the folder's own config, changed
    ):
        assert all(part in line for part in said), line


def test_where_a_run_goes_on_may_differ():
    from fedsim.disk.folders import same

    old = loading.load(IMAGES)
    same(old, loading.load(IMAGES, runtime__executor="in_process", output="elsewhere", name="other"))
    with pytest.raises(ConfigError, match="rounds"):
        same(old, loading.load(IMAGES, rounds=5))


def test_validate_says_what_is_valid(tmp_path: Path, capsys):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(IMAGES))
    assert main(["validate", str(tmp_path / "good.yaml"), "participants.count=3"]) == 0
    said = capsys.readouterr().out
    assert "valid. 3 participants" in said
    assert "federated_distillation, fedprox, centralized" in said


def test_a_config_is_checked_without_torch_or_ray(tmp_path: Path):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(IMAGES))
    code = (
        "import sys; from fedsim.cli import main\n"
        f"assert main(['validate', {str(tmp_path / 'good.yaml')!r}]) == 0\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

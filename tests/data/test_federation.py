"""The promises about a whole federation, on the two sources that are always there."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fedsim.data import SOURCES, Federation, Plan, build, overlap, plan
from fedsim.errors import ConfigError

BOTH = pytest.mark.parametrize("source", ["stdlib", "digits"])


def everything(federation: Federation) -> dict[str, list]:
    public = federation.public
    parts = {"proxy": [public.proxy], "validation": [public.validation], "test": [public.test]}
    parts |= {f"{s.participant}/train": [s.train] for s in federation.shards}
    return parts | {f"{s.participant}/test": [s.test] for s in federation.shards}


@BOTH
def test_no_document_and_no_image_is_in_two_places(config, source: str):
    planned = plan(config(source=source, max_examples=600, count=6))
    raw = planned.raw
    assert len(set(raw.keys.tolist())) == len(raw) == 600
    places = [planned.splits[name] for name in ("proxy", "validation", "test")]
    places += [index for shard in planned.shards for index in shard]
    assert np.array_equal(np.sort(np.concatenate(places)), np.arange(600))
    federation = build(planned)
    held = {
        name: {k for p in parts for k in p.keys.tolist()} for name, parts in everything(federation).items()
    }
    for first, second in combinations(held, 2):
        assert not held[first] & held[second], (first, second)


@pytest.mark.parametrize(("source", "at_most"), [("stdlib", 0.005), ("digits", 0.0)])
def test_no_input_of_the_test_set_is_trained_on(config, source: str, at_most: float):
    # Not none for text: two files may hold the same line of dashes or the same licence.
    federation = build(plan(config(source=source, max_examples=1000)))
    public = federation.public
    private = [part for shard in federation.shards for part in (shard.train, shard.test)]
    assert overlap(public.test, public.test) == len(public.test)
    assert overlap(public.test, public.proxy, public.validation, *private) <= at_most * len(public.test)


@BOTH
def test_the_seed_decides_everything(config, source: str):
    first, again, other = (
        build(plan(config(seed=s, source=source, max_examples=300))).fingerprints for s in (0, 0, 1)
    )
    names = {"proxy", "validation", "test", "private"} | ({"tokenizer"} if source == "stdlib" else set())
    assert set(first) == names
    assert first == again
    assert all(first[name] != other[name] for name in names)


def test_shape_and_meaning_of_text(config):
    federation = build(plan(config(source="stdlib", window=32, max_examples=400)))
    assert federation.modality == "text"
    assert federation.classes == 300
    assert (federation.end_of_text, federation.image_shape) == (0, None)
    for parts in everything(federation).values():
        for part in parts:
            ids = part.arrays["input_ids"]
            assert ids.shape == (len(part), 32)
            assert ids.min() >= 0
            assert ids.max() < 300
    assert {"asyncio", "email"} <= set(federation.group_names)
    assert federation.distribution.shape == (3, len(federation.group_names))
    assert all(len(shard.train) and len(shard.test) for shard in federation.shards)


def test_shape_and_meaning_of_images(config):
    federation = build(plan(config(source="digits", image_size=12)))
    assert federation.image_shape == (1, 12, 12)
    assert federation.classes == 10
    assert federation.tokenizer_json is None
    for name, (part,) in everything(federation).items():
        assert part.arrays["pixel_values"].shape == (len(part), 1, 12, 12)
        assert part.arrays["pixel_values"].dtype == np.uint8
        if name != "proxy":
            assert np.array_equal(part.arrays["labels"], part.groups)
    assert federation.distribution.sum() == sum(len(s.train) + len(s.test) for s in federation.shards)


def test_digits_are_scikit_learns(config):
    from sklearn.datasets import load_digits

    raw = plan(config(source="digits")).raw
    assert len(raw) == 1797
    assert np.array_equal(np.rint(raw.pixels[:, 0] / 255 * 16), load_digits().images)
    assert np.array_equal(raw.groups, load_digits().target)


@pytest.mark.parametrize("labelled", [False, True])
def test_an_unlabelled_proxy_set_carries_no_label_anywhere(config, labelled: bool):
    federation = build(plan(config(source="digits", proxy_labelled=labelled)))
    proxy = federation.public.proxy
    assert ("labels" in proxy.arrays) == labelled
    assert set(proxy.groups.tolist()) == (set(range(10)) if labelled else {-1})
    assert "labels" in federation.public.validation.arrays


def test_the_tokenizer_knows_only_the_proxy_set(config):
    planned = plan(config(source="stdlib", max_examples=400))
    texts = list(planned.raw.documents)
    for i in planned.splits["private"]:
        texts[i] = "secret " * 200
    secret = build(replace(planned, raw=replace(planned.raw, documents=texts)))
    honest = build(planned)
    changed = {k for k, v in honest.fingerprints.items() if secret.fingerprints[k] != v}
    assert changed == {"private"}


def test_a_ready_tokenizer_is_used_as_it_is(config, tmp_path):
    first = build(plan(config(source="stdlib", max_examples=200)))
    (tmp_path / "tokenizer.json").write_text(first.tokenizer_json)
    ready = build(plan(config(source="stdlib", max_examples=200, seed=5, tokenizer=str(tmp_path))))
    assert ready.fingerprints["tokenizer"] == first.fingerprints["tokenizer"]
    assert ready.classes == 300


def test_participants_without_a_local_test_part(config):
    federation = build(plan(config(source="digits", partition={"test_fraction": 0.0})))
    assert [len(shard.test) for shard in federation.shards] == [0, 0, 0]


def test_max_examples_are_drawn_evenly(config):
    raw = plan(config(source="digits", max_examples=105)).raw
    assert sorted(np.bincount(raw.groups).tolist()) == [10] * 5 + [11] * 5


def test_a_plan_travels_between_processes(config):
    planned = plan(config(source="digits", max_examples=100))
    assert build(pickle.loads(pickle.dumps(planned))).fingerprints == build(planned).fingerprints


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": "nowhere"}, "data.source"),
        ({"partition": {"kind": "fair"}}, "participants.partition.kind"),
        ({"source": "digits", "modality": "text"}, "data.modality"),
        ({"source": "digits", "count": 1000}, "participants.count"),
        ({"source": "digits", "split": {"validation": 1e-5}}, "data.split.validation"),
        (
            {"source": "digits", "partition": {"minimum": 1, "test_fraction": 0.9}, "count": 900},
            "participants",
        ),
        ({"tokenizer": "/nowhere"}, "data.tokenizer"),
    ],
)
def test_what_is_wrong_is_found_by_the_plan(config, changes: dict, field: str):
    with pytest.raises(ConfigError) as caught:
        plan(config(**changes))
    assert caught.value.field.startswith(field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"window": 65536, "max_examples": 200}, "data.split."),
        ({"window": 2048, "count": 60, "partition": {"kind": "iid", "minimum": 1}}, "participants.partition"),
    ],
)
def test_texts_that_fill_no_window(config, changes: dict, field: str):
    planned: Plan = plan(config(source="stdlib", **{"max_examples": 250, **changes}))
    with pytest.raises(ConfigError, match=r"a smaller data.window.* fill one window") as caught:
        build(planned)
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize(
    ("long", "field"), [("public", "data.split.proxy"), ("private", "participants.partition.minimum")]
)
def test_rows_that_are_longer_than_a_window_need_a_larger_one(config, tmp_path, long: str, field: str):
    rows = [{"ask": f"what is {n}?", "answer": f"{n}"} for n in range(120)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    planned = plan(
        config(source="files", path=str(path), modality="text", prompt_column="ask",
               text_column="answer", window=64)
    )  # fmt: skip
    texts = list(planned.raw.documents)
    for i in planned.splits["proxy" if long == "public" else "private"]:
        texts[i] = "so many words " * 30
    with pytest.raises(
        ConfigError, match=r"a larger data\.window.* rows none fits one window of 64"
    ) as caught:
        build(replace(planned, raw=replace(planned.raw, documents=texts)))
    assert caught.value.field == field


def test_unlabelled_images_of_a_plugin_are_refused(config, monkeypatch):
    digits = SOURCES["digits"]
    monkeypatch.setitem(SOURCES, "mine", lambda data, rng: replace(digits(data, rng), labelled=False))
    with pytest.raises(ConfigError, match=r"data\.label_column"):
        plan(config(source="mine"))


def test_importing_the_package_loads_nothing_heavy():
    heavy = {
        "torch",
        "ray",
        "deepspeed",
        "transformers",
        "datasets",
        "sklearn",
        "pandas",
        "PIL",
        "tokenizers",
    }
    code = f"import sys, fedsim.data; print(*({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []

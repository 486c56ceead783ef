"""A proxy set from a source of its own, and the short names of public datasets."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fedsim import config as configs
from fedsim import loading
from fedsim.config import DataConfig, Source
from fedsim.config.catalog import HUB
from fedsim.data import build, plan
from fedsim.data.sources import hub
from fedsim.errors import ConfigError


def write_texts(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return str(path)


def documents(word: str, number: int) -> list[str]:
    return [f"{word} {i}: " + f"{word} and {i} " * 30 for i in range(number)]


def write_images(folder: Path, values: list[int], mode: str = "RGB", size: int = 8) -> str:
    folder.mkdir()
    for i, value in enumerate(values):
        noise = np.random.default_rng(value).integers(256, size=(size, size, 3)).astype(np.uint8)
        Image.fromarray(noise).convert(mode).save(folder / f"{i:03}.png")
    return str(folder)


def require_disjoint(federation) -> None:
    public = federation.public
    parts = [public.proxy, public.validation, public.test]
    parts += [part for s in federation.shards for part in (s.train, s.test)]
    for first, second in combinations(parts, 2):
        assert not set(first.keys.tolist()) & set(second.keys.tolist())


def test_texts_from_jsonl_and_a_proxy_set_from_a_text_file(config, tmp_path: Path):
    data = write_texts(tmp_path / "private.jsonl", documents("private", 60))
    (tmp_path / "public.txt").write_text("\n\n".join(documents("public", 30)))
    proxy = {"source": "files", "path": str(tmp_path / "public.txt")}
    settings = config(
        source="files", path=data, modality="text", text_column="body", window=16, proxy=proxy, vocabulary=400
    )
    planned = plan(settings)
    federation = build(planned)
    assert all("public" in planned.raw.documents[i] for i in planned.splits["proxy"])
    assert not any("public" in planned.raw.documents[i] for i in planned.splits["private"])
    assert set(federation.public.proxy.groups.tolist()) == {-1}
    assert federation.group_names == ("text",)
    assert federation.distribution.sum() == len(planned.splits["private"])
    require_disjoint(federation)
    assert "public.txt" in federation.description


def test_what_both_sources_hold_is_private(config, tmp_path: Path):
    shared = documents("shared", 20)
    data = write_texts(tmp_path / "a.jsonl", documents("private", 60) + shared)
    other = write_texts(tmp_path / "b.jsonl", documents("public", 30) + shared)
    files = {"source": "files", "text_column": "body"}
    settings = config(**files, path=data, modality="text", window=16, proxy={**files, "path": other})
    planned = plan(settings)
    assert len(planned.splits["proxy"]) == 30
    assert len(np.unique(planned.raw.keys)) == len(planned.raw) == 110
    everything = np.sort(np.concatenate(list(planned.splits.values())))
    assert np.array_equal(everything, np.arange(110))
    with pytest.raises(ConfigError, match=r"data\.proxy\.path: .* doesn't hold"):
        plan(settings.model_copy(update={"data": settings.data.model_copy(update={"path": other})}))


@pytest.mark.parametrize("modality", ["image", "image_text"])
def test_unlabelled_colour_images_stand_beside_grey_digits(config, tmp_path: Path, modality: str):
    proxy = {"source": "files", "path": write_images(tmp_path / "photos", list(range(20)), size=12)}
    settings = config(source="digits", modality=modality, image_size=8, max_examples=200, proxy=proxy)
    federation = build(plan(settings))
    assert set(federation.public.proxy.arrays) == {"pixel_values"}
    assert federation.public.proxy.arrays["pixel_values"].shape == (20, 1, 8, 8)
    assert len(federation.public.test) == 20
    assert (
        sum(len(s.train) + len(s.test) for s in federation.shards) == 170
    )  # no part is cut off for the proxy
    require_disjoint(federation)


def test_grey_is_pillows_and_its_copies_count_once(config, tmp_path: Path):
    colours, greys = tmp_path / "colours", tmp_path / "greys"
    path = write_images(colours, [1, 2, 3])
    write_images(greys, [1], mode="L")
    Image.open(greys / "000.png").convert("RGB").save(colours / "100.png")  # as image 1 without its colours
    proxy = {"source": "files", "path": path}
    federation = build(plan(config(source="digits", image_size=8, max_examples=100, proxy=proxy)))
    pixels = federation.public.proxy.arrays["pixel_values"][:, 0]
    expected = np.asarray(Image.open(colours / "001.png").convert("L")).astype(int)
    assert min(np.abs(p.astype(int) - expected).max() for p in pixels) <= 1
    assert len(pixels) in (3, 4)  # four where rounding differs by one


def test_a_labelled_proxy_set_keeps_its_labels_by_name(config, tmp_path: Path):
    root = tmp_path / "folders"
    root.mkdir()
    for name, values in {"7": range(5), "0": range(5, 10)}.items():
        write_images(root / name, list(values))
    proxy = {"source": "files", "path": str(root)}
    changes = {"image_size": 8, "max_examples": 100, "proxy_labelled": True}
    federation = build(plan(config(source="digits", proxy=proxy, **changes)))
    assert np.bincount(federation.public.proxy.arrays["labels"]).tolist() == [5, 0, 0, 0, 0, 0, 0, 5]
    (root / "7").rename(root / "cat")
    with pytest.raises(ConfigError, match=r"data\.proxy\.label_names: \['cat'\]"):
        plan(config(source="digits", proxy=proxy, **changes))
    flat = {"source": "files", "path": write_images(tmp_path / "flat", [1, 2])}
    with pytest.raises(ConfigError, match=r"data\.proxy_labelled: True .*no labels"):
        plan(config(source="digits", proxy=flat, **changes))


def test_captions_of_its_own_source_make_a_proxy_set_learnable(config, tmp_path: Path):
    rows = []
    for i in range(12):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / "one.png")
        rows.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": None})
    texts = [f"a drawing of thing {i}" for i in range(12)]
    features = datasets.Features({"image": datasets.Image(decode=False), "said": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": rows, "said": texts}, features)
    table.to_parquet(tmp_path / "pairs.parquet")
    proxy = {"source": "files", "path": str(tmp_path / "pairs.parquet"), "caption_column": "said"}
    settings = config(source="digits", modality="image_text", max_examples=100, proxy=proxy)
    federation = build(plan(settings))
    assert settings.data.proxy_answered
    assert set(federation.public.proxy.arrays) == {"pixel_values", "input_ids"}
    assert federation.prompts[0] == "a photo of a 0"  # the labels of the data, not the proxy's captions


@pytest.mark.parametrize(
    ("proxy", "field", "words"),
    [
        ({"source": "files", "path": "/nowhere"}, "data.proxy.path", "an existing file"),
        ({"source": "elsewhere"}, "data.proxy.source", "one of"),
        ({"source": "stdlib"}, "data.modality", "image"),
    ],
)
def test_errors_name_the_proxy_set(config, proxy: dict, field: str, words: str):
    with pytest.raises(ConfigError) as caught:
        plan(config(source="digits", modality="image", proxy=proxy))
    assert caught.value.field in (field, field.replace("data.", "data.proxy.", 1))
    assert words in str(caught.value)


def test_images_of_another_size_ask_for_one(config, tmp_path: Path):
    proxy = {"source": "files", "path": write_images(tmp_path / "large", [1, 2], size=16)}
    with pytest.raises(ConfigError, match=r"data\.image_size: .*8×8 and 16×16"):
        plan(config(source="digits", proxy=proxy))


def test_a_config_with_a_proxy_set_comes_back_from_its_file(tmp_path: Path):
    tree = {"data": {"proxy": {"source": "hub", "path": "c4", "max_examples": 50}}}
    config = loading.load(tree)
    proxy = config.data.proxy
    assert (proxy.path, proxy.subset, proxy.text_column) == ("allenai/c4", "en", "text")
    (tmp_path / "config.yaml").write_text(configs.to_yaml(config))
    assert loading.load(tmp_path / "config.yaml") == config


# The catalog --------------------------------------------------------------------------------------


def test_the_catalog_holds_the_public_datasets_of_the_field():
    names = {"c4", "wikipedia", "bookcorpus", "imagenet", "coco", "openimages", "conceptual_captions", "sbu"}
    assert names <= HUB.keys()
    for name, fields in HUB.items():
        assert fields.keys() <= Source.model_fields.keys() - {"source"}
        owner, found, rest = fields["path"].partition("/")
        assert owner and found and rest and "/" not in rest, name
        assert "text_column" in fields or "image_column" in fields
    pairs = {name for name, fields in HUB.items() if "caption_column" in fields}
    assert pairs == {"coco", "conceptual_captions", "sbu"}


@pytest.mark.parametrize("name", HUB)
def test_a_short_name_stands_for_its_fields_and_gives_way(name: str):
    source = Source(source="hub", path=name, max_examples=7)
    assert {k: getattr(source, k) for k in HUB[name]} == HUB[name]
    given = Source(source="hub", path=name, text_column="other", image_column="other")
    assert (given.text_column, given.image_column) == ("other", "other")
    assert given.path == HUB[name]["path"]
    assert Source(**dict(source)) == source
    assert Source(source="files", path=name).path == name  # a folder may be called so


@pytest.fixture
def server() -> Iterator[str]:
    """Serves /N.png for N below 6, a page for 6 and 7, nothing else."""

    class Images(BaseHTTPRequestHandler):
        def do_GET(self):
            number = int(self.path[1:].split(".")[0])
            self.send_response(200 if number < 8 else 404)
            self.end_headers()
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
            self.wfile.write(buffer.getvalue() if number < 6 else b"<html>gone</html>")

        def log_message(self, *args):
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_images_are_fetched_from_their_addresses_and_dead_ones_passed_over(server: str, monkeypatch):
    rows = {
        "image_url": [f"{server}/{i}.png" for i in range(12)],
        "caption": [f"text {i}" for i in range(12)],
    }
    rows["image_url"][0] = "file:///etc/hostname"
    table = datasets.Dataset.from_dict(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: table.to_iterable_dataset())
    data = {"source": "hub", "path": "sbu", "modality": "image_text"}
    raw = hub.load(DataConfig(**data, max_examples=20), np.random.default_rng(0))
    assert sorted(zip(raw.pixels[:, 0, 0, 0].tolist(), raw.captions, strict=True)) == [
        (i, f"text {i}") for i in range(1, 6)
    ]
    assert len(hub.load(DataConfig(**data, max_examples=3), np.random.default_rng(0))) == 3
    dead = datasets.Dataset.from_dict({"image_url": [f"{server}/9.png"], "caption": ["gone"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: dead.to_iterable_dataset())
    with pytest.raises(ConfigError, match=r"data\.image_column: 'image_url' .*can be reached"):
        hub.load(DataConfig(**data, max_examples=3), np.random.default_rng(0))


def test_a_proxy_set_has_prompts_only_where_the_others_have(tmp_path: Path):
    """Else its windows would be learnt without them, and what is in both not be known again."""
    rows = [{"ask": f"what is {i}?", "body": f"it is {i} " * 40} for i in range(60)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    proxy = {"source": "files", "path": str(tmp_path / "asked.jsonl"), "prompt_column": "ask"}
    tree = {
        "data": {
            "source": "files", "path": write_texts(tmp_path / "plain.jsonl", documents("word", 80)),
            "modality": "text", "text_column": "body", "proxy": {**proxy, "text_column": "body"},
        },
        "participants": {"count": 2, "models": ["llama-tiny"]}, "student": {"model": "llama-tiny"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"data\.proxy\.prompt_column.* expected nothing"):
        plan(loading.load(tree))

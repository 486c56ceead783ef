"""The public datasets of the catalog, streamed: from folders that are laid out as theirs on the hub.

`datasets` reads a local folder as it reads a repository of the hub, so that only the network is missing.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedsim.config import DataConfig
from fedsim.config.catalog import HUB
from fedsim.data import build, plan
from fedsim.data.sources import Raw, hub

ROWS = 24


def texts() -> list[str]:
    return [f"document {i} of many" for i in range(ROWS)]


def picture(i: int, ending: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (9 * i, 0, 0)).save(buffer, ending)
    return buffer.getvalue()


def pictures() -> list[dict[str, Any]]:
    return [{"bytes": picture(i), "path": f"{i}.png"} for i in range(ROWS)]


def shards(folder: Path, columns: dict[str, list], features: datasets.Features | None = None) -> None:
    """Two Parquet files, as `push_to_hub` names them."""
    (folder / "data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns, features)
    for k in range(2):
        part = table.select(range(k * ROWS // 2, (k + 1) * ROWS // 2))
        part.to_parquet(folder / "data" / f"train-{k:05}-of-00002.parquet")


def c4(folder: Path) -> None:
    rows = [{"text": t, "timestamp": "2019-04-25T12:57:54Z", "url": "http://a.b"} for t in texts()]
    for k in range(2):
        with gzip.open(folder / f"c4-train.{k:05}-of-00002.json.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows[k::2])


def wikipedia(folder: Path) -> None:
    number = [str(i) for i in range(ROWS)]
    shards(folder, {"id": number, "url": number, "title": number, "text": texts()})


def bookcorpus(folder: Path) -> None:
    """As the hub's own conversion names files."""
    (folder / "train").mkdir()
    pq.write_table(pa.table({"text": texts()}), folder / "train" / "0000.parquet")


def imagenet(folder: Path) -> None:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "goldfish", "shark"])}
    columns = {"image": pictures(), "label": [i % 3 for i in range(ROWS)]}
    shards(folder, columns, datasets.Features(features))


def coco(folder: Path) -> None:
    features = datasets.Features(
        image=datasets.Image(),
        filename=datasets.Value("string"),
        cocoid=datasets.Value("int32"),
        caption=datasets.Value("string"),
    )
    names = [f"{i}.jpg" for i in range(ROWS)]
    columns = {"image": pictures(), "filename": names, "cocoid": list(range(ROWS)), "caption": texts()}
    shards(folder, columns, features)


def conceptual_captions(folder: Path) -> None:
    """WebDataset: an image, its text and what is known of it."""
    for k in range(2):
        with tarfile.open(folder / f"cc3m-train-{k:04}.tar", "w") as tar:
            for i in range(k, ROWS, 2):
                about = json.dumps({"url": "http://a.b", "key": f"{i:09}"}).encode()
                parts = {"jpg": picture(i, "jpeg"), "json": about, "txt": texts()[i].encode()}
                for ending, content in parts.items():
                    member = tarfile.TarInfo(f"{i:09}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


WRITERS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (c4, wikipedia, bookcorpus, imagenet, coco, conceptual_captions)
}
MODALITY = {"imagenet": "image", "coco": "image_text", "conceptual_captions": "image_text"}
ADDRESSED = {"openimages", "sbu"}
"""Hold addresses in place of images: `test_proxy.py` has a server for them."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits five seconds where a stream is left before its end."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


def repository(name: str, folder: Path) -> dict[str, Any]:
    """The catalog's fields with a folder in place of the repository, which is written there."""
    folder.mkdir()
    WRITERS[name](folder)
    known = {k: v for k, v in HUB[name].items() if k not in ("subset", "revision")}
    return {"source": "hub", **known, "path": str(folder)}


def stream(fields: dict[str, Any], modality: str, number: int, seed: int = 0) -> Raw:
    data = DataConfig(**fields, modality=modality, max_examples=number)
    return hub.load(data, np.random.default_rng(seed))


def test_every_dataset_of_the_catalog_is_read_here_or_has_addresses():
    assert WRITERS.keys() | ADDRESSED == HUB.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_dataset_of_the_catalog_is_streamed(name: str, tmp_path: Path):
    modality = MODALITY.get(name, "text")
    raw = stream(repository(name, tmp_path / "hub"), modality, 6)
    assert len(raw) == 6
    if modality == "text":
        assert set(raw.documents) < set(texts())
        return
    assert raw.pixels.shape == (6, 3, 8, 10)
    numbers = np.rint(raw.pixels[:, 0].mean((1, 2)) / 9).astype(int)
    if name == "imagenet":
        assert raw.group_names == ("tench", "goldfish", "shark")
        assert raw.groups.tolist() == (numbers % 3).tolist()
        assert np.bincount(raw.groups).tolist() == [2, 2, 2]
    else:
        assert raw.captions == [texts()[i] for i in numbers]


@pytest.mark.parametrize("name", ["c4", "conceptual_captions"])
def test_the_seed_decides_what_is_drawn(name: str, tmp_path: Path):
    fields, modality = repository(name, tmp_path / "hub"), MODALITY.get(name, "text")
    first, again, other = (stream(fields, modality, 6, seed).keys.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("name", ["wikipedia", "imagenet", "conceptual_captions"])
def test_it_is_a_proxy_set_beside_data_of_ones_own(name: str, tmp_path: Path, config):
    modality = MODALITY.get(name, "text")
    proxy = {**repository(name, tmp_path / "hub"), "max_examples": 12}
    own: dict[str, Any] = {"source": "digits", "modality": modality, "max_examples": 100, "image_size": 8}
    if modality == "text":
        own = {"source": "stdlib", "max_examples": 60, "window": 16}
    planned = plan(config(**own, proxy=proxy, count=2))
    assert len(planned.splits["proxy"]) == 12
    of_proxy = build(planned).public.proxy
    assert ("input_ids" in of_proxy.arrays) == (modality != "image")
    assert "labels" not in of_proxy.arrays

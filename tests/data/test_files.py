"""Every kind of file, written here, and every way it can be wrong."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedsim.config import DataConfig
from fedsim.data.sources import Raw, files, images
from fedsim.errors import ConfigError

ROWS = [{"body": f"document {i}, with\na comma", "topic": ["art", "bio"][i % 2]} for i in range(8)]
TEXTS = [row["body"] for row in ROWS]


def load(path: Path | str, modality: str | None = "text", **data: object) -> Raw:
    config = DataConfig(source="files", path=str(path), modality=modality, **data)
    return files.load(config, np.random.default_rng(0))


def rows(path: Path | str, **data: object) -> Raw:
    return load(path, text_column="body", label_column="topic", **data)


def check_rows(raw: Raw) -> None:
    assert raw.documents == TEXTS
    assert raw.group_names == ("art", "bio")
    assert raw.groups.tolist() == [0, 1] * 4


def write_csv(path: Path, header: bool = True) -> Path:
    lines = ['body,"topic"'] if header else []
    lines += [f'"{row["body"]}",{row["topic"]}' for row in ROWS]
    path.write_text("\n".join(lines) + "\n")
    return path


def picture(value: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, (value, 0, 255) if mode == "RGB" else value)


def write_folder(root: Path, mode: str = "RGB", suffix: str = ".png") -> Path:
    for i in range(6):
        folder = root / ["cat", "dog", "emu"][i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture(40 * i, mode=mode).save(folder / f"{i}{suffix}")
    return root


def test_text_file(tmp_path: Path):
    path = tmp_path / "play.txt"
    path.write_text("".join(f"line {i} of the play\n\n" for i in range(300)))
    raw = load(path)
    assert "".join(raw.documents) == path.read_text()
    assert raw.group_names == ("play",)


def test_text_files_are_domains_and_so_are_their_folders(tmp_path: Path):
    for name in ("a/one.txt", "a/two.txt", "b/one.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    assert load(tmp_path / "a").group_names == ("one", "two")
    assert load(tmp_path).group_names == ("a", "b")
    raw = load(tmp_path / "*" / "one.txt")
    assert [raw.group_names[g] for g in raw.groups] == ["a", "b"]


def test_jsonl_and_json(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    check_rows(rows(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=2))
    check_rows(rows(tmp_path / "rows.json"))


def test_csv_with_header(tmp_path: Path):
    check_rows(rows(write_csv(tmp_path / "rows.csv")))


def test_csv_without_header(tmp_path: Path):
    path = write_csv(tmp_path / "rows.csv", header=False)
    check_rows(load(path, header=False, text_column="0", label_column="1"))


def test_csv_cells_are_text_whatever_they_look_like(tmp_path: Path):
    (tmp_path / "t.csv").write_text("body,topic\n1,10\nNA,9\nnull,010\n2.50,9\n")
    raw = rows(tmp_path / "t.csv")
    assert raw.documents == ["1", "NA", "null", "2.50"]
    assert raw.group_names == ("9", "010", "10")


def test_several_files_in_the_order_of_their_paths(tmp_path: Path):
    for name, part in (("b [x].csv", ROWS[5:]), ("a.csv", ROWS[:5])):
        body = "".join(f'"{row["body"]}",{row["topic"]}\n' for row in part)
        (tmp_path / name).write_text("body,topic\n" + body)
    check_rows(rows(tmp_path))
    check_rows(rows(tmp_path / "*.csv"))


def test_parquet_texts(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    check_rows(rows(tmp_path / "rows.parquet"))


def test_without_a_label_column_texts_are_one_group(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    raw = load(tmp_path, text_column="body")
    assert raw.group_names == ("text",)
    assert raw.documents == TEXTS


@pytest.mark.parametrize("declared", [True, False])
def test_parquet_images(tmp_path: Path, declared: bool):
    paths = sorted(write_folder(tmp_path / "images").rglob("*.png"))
    cells = [{"bytes": p.read_bytes(), "path": p.name} for p in paths]
    table = {"image": cells, "label": [2, 2, 0, 0, 1, 1]}
    if declared:
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])}
        datasets.Dataset.from_dict(table, datasets.Features(features)).to_parquet(tmp_path / "i.parquet")
    else:
        pq.write_table(pa.table(table), tmp_path / "i.parquet")
    raw = load(tmp_path / "i.parquet", "image", label_column="label")
    assert raw.pixels.shape == (6, 3, 5, 6)
    assert raw.pixels[:, 0, 0, 0].tolist() == [0, 120, 40, 160, 80, 200]
    assert raw.pixels[:, 2].min() == 255
    assert raw.groups.tolist() == [2, 2, 0, 0, 1, 1]
    assert raw.group_names == (("a", "b", "c", "d") if declared else ("0", "1", "2"))


@pytest.mark.parametrize("place", ["", "*/*.png"])
def test_image_folder(tmp_path: Path, place: str):
    raw = load(write_folder(tmp_path / "images") / place, "image")
    assert raw.group_names == ("cat", "dog", "emu")
    assert raw.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert raw.pixels[:, 0, 0, 0].tolist() == [0, 120, 40, 160, 80, 200]


def test_grey_images_keep_one_channel_and_are_resized(tmp_path: Path):
    raw = load(write_folder(tmp_path, mode="L"), "image", image_size=4)
    assert raw.pixels.shape == (6, 1, 4, 4)
    assert raw.pixels[:, 0, 0, 0].tolist() == [0, 120, 40, 160, 80, 200]


def test_one_coloured_image_makes_all_of_them_coloured(tmp_path: Path):
    folder = write_folder(tmp_path, mode="L")
    picture(7).save(folder / "cat" / "colour.png")
    assert load(folder, "image").pixels.shape == (7, 3, 5, 6)


def test_only_images_that_are_drawn_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    real = Image.open
    write_folder(tmp_path)
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or real(file))
    assert len(load(tmp_path, "image", max_examples=3)) == len(opened) == 3


def test_saved_dataset(tmp_path: Path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    check_rows(rows(tmp_path / "one"))
    splits = datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)})
    splits.save_to_disk(tmp_path / "many")
    check_rows(rows(tmp_path / "many", hub_split="dev"))
    with pytest.raises(ConfigError, match=r"data\.hub_split: 'train' .* one of the splits dev"):
        rows(tmp_path / "many")


def test_saved_images(tmp_path: Path):
    images = datasets.Dataset.from_dict(
        {"image": [picture(i) for i in range(3)], "kind": ["x", "y", "x"]},
        datasets.Features({"image": datasets.Image(), "kind": datasets.Value("string")}),
    )
    images.save_to_disk(tmp_path / "saved")
    raw = load(tmp_path / "saved", "image", label_column="kind")
    assert raw.pixels.shape == (3, 3, 5, 6)
    assert raw.group_names == ("x", "y")


def test_nothing_is_printed_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    before = datasets.are_progress_bars_disabled()
    rows(write_csv(tmp_path / "rows.csv"))
    assert capfd.readouterr() == ("", "")
    assert datasets.are_progress_bars_disabled() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def expect(field: str, words: str, *args: object, **data: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*args, **data)
    message = str(caught.value)
    assert caught.value.field == field
    assert words in message
    assert "\n" not in message


def test_errors_of_the_path(tmp_path: Path):
    expect("data.path", "an existing file", tmp_path / "missing.csv")
    expect("data.path", "an existing file", tmp_path / "*.csv")
    expect("data.path", "a file, a folder or a glob", "")
    expect("data.modality", "text, image or image_text", write_csv(tmp_path / "rows.csv"), None)
    expect("data.path", "files ending in .parquet, .tar, .png", tmp_path / "rows.csv", "image")
    (tmp_path / "notes.txt").write_text("hello")
    expect("data.path", "found csv and text", tmp_path)


def test_errors_of_columns(tmp_path: Path):
    path = write_csv(tmp_path / "rows.csv")
    expect("data.text_column", "one of the columns body, topic", path)
    expect("data.label_column", "one of the columns body, topic", path, text_column="body", label_column="k")
    expect("data.text_column", "one of the columns 0, 1", path, header=False)
    (tmp_path / "same.csv").write_text("a,a\n1,2\n")
    expect("data.header", "column names that differ", tmp_path / "same.csv")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.csv").write_text("text,label\nx,1\n")
    (tmp_path / "two" / "b.csv").write_text("label,text\n1,x\n")
    expect("data.path", "the columns of a.csv: text, label", tmp_path / "two")
    (tmp_path / "n.jsonl").write_text('{"text": 5}\n')
    expect("data.text_column", "it holds int", tmp_path / "n.jsonl")
    (tmp_path / "m.jsonl").write_text('{"text": "a", "k": null}\n{"text": "b", "k": "x"}\n')
    expect("data.label_column", "1 rows have none", tmp_path / "m.jsonl", label_column="k")


@pytest.mark.parametrize("name", ["t.txt", "t.csv", "t.jsonl", "t.json"])
def test_empty_files(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    expect("data.path", "at least one row", tmp_path / name)


def test_files_with_no_rows_or_only_blanks(tmp_path: Path):
    (tmp_path / "t.csv").write_text("text,label\n")
    expect("data.path", "at least one row", tmp_path / "t.csv")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    expect("data.path", "at least one row", tmp_path / "t.parquet")
    (tmp_path / "b.csv").write_text("text,label\n  ,1\n")
    expect("data.text_column", "blank", tmp_path / "b.csv")
    (tmp_path / "b.txt").write_text("\n\n")
    expect("data.path", "only blanks", tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", b"caf\xe9"),
        ("t.csv", b"text\ncaf\xe9\n"),
        ("t.csv", b'text,b\nx,y\n"x,y,z,w\n'),
        ("t.jsonl", b'{"text": "a"\n'),
        ("t.parquet", b"PAR1 nothing"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    expect("data.path", "t.", tmp_path / name)


def test_errors_of_images(tmp_path: Path):
    folder = write_folder(tmp_path / "good")
    expect("data.image_column", "one of the columns image, label", folder, "image", image_column="photo")
    picture(1, size=(9, 9)).save(folder / "cat" / "large.png")
    expect("data.image_size", "sizes differ (6×5, 9×9", folder, "image")
    (folder / "cat" / "large.png").write_bytes(b"not an image")
    expect("data.image_column", "row", folder, "image")
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat" / "a.png")
    expect("data.label_column", "which", tmp_path / "flat", "image")
    pq.write_table(pa.table({"image": [1], "label": [1]}), tmp_path / "i.parquet")
    expect("data.image_column", "a column of images", tmp_path / "i.parquet", "image", label_column="label")
    expect("data.label_column", "one of the columns label", tmp_path / "i.parquet", "image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
    hidden = datasets.Dataset.from_dict({"image": [picture(1)], "label": [-1]}, features)
    hidden.to_parquet(tmp_path / "h.parquet")
    expect("data.label_column", "1 rows have none", tmp_path / "h.parquet", "image", label_column="label")


def test_csv_of_agnews(real_data: Path, config):
    from fedsim.data import build, plan

    data = {"header": False, "text_column": "2", "label_column": "0", "max_examples": 800}
    path = str(real_data / "ag_news" / "test.csv")
    federation = build(plan(config(source="files", modality="text", path=path, **data)))
    assert federation.group_names == ("1", "2", "3", "4")
    assert federation.distribution.sum(axis=0).tolist() == [130] * 4


def test_parquet_of_cifar10(real_data: Path):
    path = real_data / "cifar10" / "test-00000-of-00001.parquet"
    raw = load(path, "image", label_column="label", max_examples=100)
    assert raw.pixels.shape == (100, 3, 32, 32)
    assert np.bincount(raw.groups).tolist() == [10] * 10


def test_text_of_wikitext2(real_data: Path):
    raw = load(real_data / "wikitext2", max_examples=200)
    assert raw.group_names == ("test", "valid")
    assert np.bincount(raw.groups).tolist() == [100, 100]


def test_grey_of_sixteen_bits_keeps_its_contrast(tmp_path: Path):
    """As X-rays have it; Pillow's own conversion makes all above 255 white."""
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024).astype(np.uint16)
    cell = {"bytes": None, "path": str(tmp_path / "deep.png")}
    Image.fromarray(deep).save(cell["path"])
    assert np.array_equal(images.decode([cell], None, "image")[0, 0], deep >> 8)
    cell["path"] = str(tmp_path / "real.tiff")
    Image.fromarray(np.ones((8, 8), np.float32)).save(cell["path"])
    with pytest.raises(ConfigError, match=r"data\.image_column.*row 0: its mode is F"):
        images.decode([cell], None, "image")

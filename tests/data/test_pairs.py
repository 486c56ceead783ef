"""Image–text data: captions and prompts, who may know them, and the files they come from."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fedsim.data import build, captions, plan, tokenizers
from fedsim.errors import ConfigError
from fedsim.simulation import check, world


def digits(config, **changes):
    return build(plan(config(source="digits", modality="image_text", **changes)))


def spoken(federation, ids: np.ndarray) -> list[str]:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(federation.tokenizer_json)
    return [reader.decode([i for i in row if i != federation.end_of_text]) for row in ids.tolist()]


def picture(value: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), (value, 0, 255 - value) if mode == "RGB" else value).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, number: int = 40, **extra: str) -> Path:
    """A WebDataset shard: 000.png, 000.txt, 001.png, …"""
    with tarfile.open(path, "w") as tar:
        for i in range(number):
            files = {"png": picture(6 * i), "txt": f"this is caption number {i}".encode()}
            files |= {ending: text.format(i % 2).encode() for ending, text in extra.items()}
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{i:03}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


SHARD = {"source": "files", "modality": "image_text", "image_column": "png", "caption_column": "txt"}
THIRDS = {"test": 0.25, "validation": 0.1, "proxy": 0.25}


def test_every_label_is_a_prompt_and_every_private_image_has_a_caption(config):
    federation = digits(config, max_examples=300)
    assert federation.modality == "image_text"
    assert federation.prompts == tuple(f"a photo of a {k}" for k in range(10))
    assert federation.classes == len(federation.prompt_ids) == 10
    assert spoken(federation, np.array(federation.prompt_ids)) == list(federation.prompts)
    endings = set()
    for part in (federation.public.test, *(s.train for s in federation.shards)):
        texts = spoken(federation, part.arrays["input_ids"])
        assert [text[-1] for text in texts] == [str(k) for k in part.arrays["labels"]]
        endings |= {text[:-1] for text in texts}
        assert part.arrays["input_ids"].shape[1] == len(federation.prompt_ids[0])
        assert (part.arrays["input_ids"][:, -1] == federation.end_of_text).all()
    assert endings == {"a photo of a ", "an image of a ", "a picture of the "}


@pytest.mark.parametrize("labelled", [False, True])
def test_captions_that_say_the_label_are_hidden_with_it(config, labelled: bool):
    settings = config(source="digits", modality="image_text", max_examples=200, proxy_labelled=labelled)
    federation = build(plan(settings))
    columns = {"pixel_values", "labels", "input_ids"} if labelled else {"pixel_values"}
    assert set(federation.public.proxy.arrays) == columns
    assert world(settings, federation).proxy_labelled == labelled == settings.data.proxy_answered


def test_templates_and_names_of_labels_are_the_users(config):
    federation = digits(config, max_examples=100, templates=["{label} drawn by hand"])
    assert federation.prompts[3] == "3 drawn by hand"
    with pytest.raises(ValueError, match=r"hold \{label\} once"):
        config(templates=["a photo"])


def test_private_captions_shape_neither_the_tokenizer_nor_the_window(config, tmp_path: Path):
    path = write_tar(tmp_path / "a.tar")
    federation = build(plan(config(**SHARD, path=str(path), split=THIRDS, count=2)))
    with tarfile.open(tmp_path / "b.tar", "w") as tar, tarfile.open(path) as old:
        # The same images and, but for the private ones, the same captions.
        private = {k for s in federation.shards for part in (s.train, s.test) for k in part.keys.tolist()}
        keys = plan(config(**SHARD, path=str(path), split=THIRDS, count=2)).raw.keys.tolist()
        for member in old:
            content = old.extractfile(member).read()
            if member.name.endswith("txt") and keys[int(member.name[:3])] in private:
                content = b"secret " * 40
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    secret = build(plan(config(**SHARD, path=str(tmp_path / "b.tar"), split=THIRDS, count=2)))
    assert secret.fingerprints["private"] != federation.fingerprints["private"]
    assert secret.tokenizer_json == federation.tokenizer_json
    assert secret.prompt_ids == federation.prompt_ids


def test_without_labels_prompts_are_captions_of_the_proxy_set(config, tmp_path: Path):
    settings = config(**SHARD, path=str(write_tar(tmp_path / "a.tar")), split=THIRDS, count=2, prompts=3)
    federation = build(plan(settings))
    assert federation.classes == 3
    public = spoken(federation, federation.public.proxy.arrays["input_ids"])
    assert set(federation.prompts) < set(public)
    assert "labels" not in federation.public.test.arrays
    assert settings.data.proxy_answered  # its captions are public
    assert world(settings, federation).proxy_labelled


def test_a_shard_with_labels_too_is_classified(config, tmp_path: Path):
    path = str(write_tar(tmp_path / "a.tar", cls="{}"))
    federation = build(
        plan(
            config(
                **SHARD,
                path=path,
                split=THIRDS,
                count=2,
                label_column="cls",
                label_names=["even", "odd"],
            )
        )
    )
    assert federation.prompts == ("a photo of a even", "a photo of a odd")
    test = federation.public.test
    numbers = [int(text.split()[-1]) for text in spoken(federation, test.arrays["input_ids"])]
    assert [n % 2 for n in numbers] == test.arrays["labels"].tolist()
    proxy = federation.public.proxy.arrays
    assert "labels" not in proxy
    assert "input_ids" in proxy  # real captions stay, labels go


def test_the_first_of_several_captions_and_no_blank_ones(config, tmp_path: Path):
    several = [[f"first {i}", f"second {i}"] for i in range(40)] + [[], ["  "]]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(i), "path": None} for i in range(42)], "texts": several},
        datasets.Features(
            {"image": datasets.Image(decode=False), "texts": datasets.List(datasets.Value("string"))}
        ),
    )
    table.to_parquet(tmp_path / "a.parquet")
    data = {"source": "files", "modality": "image_text", "path": str(tmp_path), "caption_column": "texts"}
    assert plan(config(**data, split=THIRDS, count=2)).raw.captions == [f"first {i}" for i in range(40)]


def test_long_captions_are_cut_before_their_end():
    tokenizer = tokenizers.train_for_captions(["a b c"], 300)
    ids = tokenizers.encode_captions(tokenizer, ["abcdefgh", "a", ""], 4)
    assert ids.shape == (3, 4)
    assert (ids[:, -1] == 0).all()
    assert np.count_nonzero(ids, axis=1).tolist() == [3, 1, 0]
    assert tokenizers.longest(tokenizer, ["abcdefgh", "a"]) == 9


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": "stdlib", "modality": "image_text"}, "data.modality"),
        ({**SHARD, "path": "{}", "caption_column": None}, "data.label_column"),
        ({**SHARD, "path": "{}", "caption_column": "words"}, "data.caption_column"),
        ({**SHARD, "path": "{}", "image_column": "jpg"}, "data.image_column"),
        ({**SHARD, "path": "{}", "proxy_labelled": True}, "data.proxy_labelled"),
    ],
)
def test_what_is_wrong_is_found_by_the_plan(config, tmp_path: Path, changes: dict, field: str):
    path = write_tar(tmp_path / "a.tar")
    with pytest.raises(ConfigError) as caught:
        plan(config(**{k: path.as_posix() if v == "{}" else v for k, v in changes.items()}))
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello" * 1000, b""])
def test_a_malformed_tar_is_one_clear_line(config, tmp_path: Path, content: bytes):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        plan(config(**SHARD, path=str(tmp_path / "a.tar")))
    assert caught.value.field == "data.path"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_so_is_a_tar_that_breaks_off(config, tmp_path: Path, part: float):
    content = write_tar(tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: int(part * len(content)) // 512 * 512 + 100])
    with pytest.raises(ConfigError) as caught:
        plan(config(**SHARD, path=str(tmp_path / "a.tar")))
    assert caught.value.field == "data.path"
    assert "\n" not in str(caught.value)


def test_a_tokenizer_whose_end_clip_would_not_find_is_refused(config, tmp_path: Path):
    text = tokenizers.train(["abc"], 300)
    tree = json.loads(text)
    tree["added_tokens"][0]["id"] = 2
    tree["model"]["vocab"] |= {"<|endoftext|>": 2}
    first, second = (k for k, v in json.loads(text)["model"]["vocab"].items() if v in (1, 2))
    tree["model"]["vocab"] |= {first: 1, second: 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .* not token 2"):
        digits(config, max_examples=100, tokenizer=str(tmp_path))


def test_a_plans_captions_are_those_of_the_seed(config):
    one, same, other = (
        plan(config(source="digits", modality="image_text", max_examples=100, seed=s)).raw for s in (0, 0, 1)
    )
    assert one.captions == same.captions
    known = [t for t in other.captions if t]
    assert known
    assert one.captions != other.captions


def test_prompts_of_too_few_captions():
    from fedsim.config import DataConfig
    from fedsim.data.sources.raw import from_pixels

    pixels = np.arange(3, dtype=np.uint8).repeat(64).reshape(3, 1, 8, 8)
    raw = from_pixels(
        pixels, np.zeros(3), ["images"], description="", origin="", captions=["a", "a", "b"], labelled=False
    )
    with pytest.raises(ConfigError, match="two captions"):
        captions.prompts(raw, np.array([0, 1]), DataConfig(), np.random.default_rng(0))
    assert captions.prompts(raw, np.arange(3), DataConfig(), np.random.default_rng(0)) == ("a", "b")


def test_cc12m(real_data: Path, config):
    path = str(real_data / "cc12m_sample" / "cc12m-train-0000.tar")
    data = {**SHARD, "image_column": "jpg", "path": path, "image_size": 32, "window": 77}
    split = {"test": 0.2, "validation": 0.1, "proxy": 0.3}
    federation = build(plan(config(**data, split=split, count=2, partition={"minimum": 2})))
    public = federation.public
    assert public.proxy.arrays["pixel_values"].shape == (10, 3, 32, 32)
    assert federation.classes == 10
    assert all(len(text) > 5 for text in spoken(federation, public.test.arrays["input_ids"]))


def test_cifar10_with_prompts(real_data: Path, config):
    names = (real_data / "cifar10" / "classes.txt").read_text().split()
    data = {
        "source": "files",
        "path": str(real_data / "cifar10" / "test-00000-of-00001.parquet"),
        "modality": "image_text",
        "label_column": "label",
        "label_names": names,
        "max_examples": 200,
    }
    federation = build(plan(config(**data)))
    assert federation.prompts[3] == "a photo of a cat"
    test = federation.public.test.arrays
    said = spoken(federation, test["input_ids"])
    assert all(text.endswith(names[k]) for text, k in zip(said, test["labels"], strict=True))


def test_the_models_must_be_dual_encoders(config):
    settings = config(source="digits", modality="image_text")
    with pytest.raises(ConfigError, match=r"participants\.models\.0: .*reads image_text: .*clip-tiny"):
        check(settings)

"""From a config to everything the run's parts train and measure on, in two steps.

`plan` loads, splits and partitions: what is wrong with a config comes out here, before an actor
starts. `build` makes tokens, windows and arrays of it. Both draw only from the run's seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from fedsim.config import MODALITIES, DataConfig, RunConfig, Source
from fedsim.data import captions, tokenizers
from fedsim.data.partition import PARTITIONERS, distribution
from fedsim.data.proxy import UNKNOWN, fitted, join
from fedsim.data.sources import SOURCES, Raw
from fedsim.data.splits import split, stratify
from fedsim.errors import ConfigError
from fedsim.seeding import generator
from fedsim.types import Examples, Public, Shard

T = TypeVar("T")

NOT_OF_BUNDLED = (
    "prompt_column", "caption_column", "label_column", "label_names", "text_column", "image_column",
    "path", "subset", "hub_split", "revision", "header",
)  # fmt: skip
"""Settings that the sources of `MODALITIES` would pass over in silence: they were meant for another."""


@dataclass(frozen=True)
class Plan:
    """Who gets which documents or images; nothing is encoded yet. All positions are rows of `raw`.

    splits: `test`, `validation`, `proxy`, `private` → ascending int64, disjoint, together all of raw.
    shards: per participant (train, test), ascending int64; together `splits["private"]`.
    """

    config: RunConfig
    raw: Raw
    splits: dict[str, np.ndarray]
    shards: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Federation:
    """All the data of a run.

    modality: `text`, `image` or `image_text`.
    classes: V tokens, K labels or K prompts: the width of a response.
    group_names: name of each domain or label.   image_shape: (C, H, W).
    end_of_text: token id between documents, or after captions.
    tokenizer_json: the text of a `tokenizer.json`.
    prompts, prompt_ids: image–text, the K texts that responses are about, and their tokens.
    distribution: [participants, groups] int64, private documents or images, train and test.
    fingerprints: BLAKE2b (hex) of `proxy`, `validation`, `test`, `private` and `tokenizer`.
    description: one line for reports.   origin: where from and its licence, for model cards.
    left_out: text with prompts, rows that are longer than a window.
    """

    modality: str
    public: Public
    shards: tuple[Shard, ...]
    group_names: tuple[str, ...]
    classes: int
    tokenizer_json: str | None
    end_of_text: int | None
    image_shape: tuple[int, int, int] | None
    distribution: np.ndarray
    fingerprints: dict[str, str]
    description: str
    origin: str
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[tuple[int, ...], ...] = ()
    left_out: int = 0


def plan(config: RunConfig) -> Plan:
    """Load, split and partition. Raises ConfigError for whatever the config can be wrong in, except
    that only `build` can tell whether texts fill a window."""
    data, people = config.data, config.participants
    partitioner = _known(PARTITIONERS, "participants.partition.kind", people.partition.kind)
    if data.tokenizer is not None:
        tokenizers.load(data.tokenizer)  # fails here rather than in build
    raw = _load(data, generator(config.seed, "data/draw"))
    if data.prompt_column is not None and not raw.prompts:
        expected = "nothing: only tables (JSONL, CSV, Parquet, hub) of text have columns"
        raise ConfigError("data.prompt_column", data.prompt_column, expected)
    raw, splits = _divide(config, raw)
    private = splits["private"]
    parts = partitioner(
        raw.groups[private], people.count, people.partition, generator(config.seed, "data/partition")
    )
    test = people.partition.test_fraction
    shards = []
    for participant, part in enumerate(parts):
        rng = generator(config.seed, participant, "data/shard")
        kept, rest = stratify(raw.groups[private[part]], [test, 1.0 - test], rng)
        if not len(rest):
            raise ConfigError(
                "participants.partition.test_fraction",
                test,
                f"a smaller fraction, or a larger minimum: participant {participant} has nothing to train on",
            )
        shards.append((private[part[rest]], private[part[kept]]))
    return Plan(config, raw, splits, tuple(shards))


def build(plan: Plan) -> Federation:
    """Encode what is planned. Raises ConfigError where a split or a participant's training text
    doesn't fill one window."""
    return _build_text(plan) if plan.raw.modality == "text" else _build_images(plan)


def held_out(config: RunConfig, data: Federation) -> Federation:
    """The same with the images that `evaluation.few_shot` asks for, in the size and colours of the others.

    Raises ConfigError where there are none, or too few of a class."""
    asked = config.evaluation.few_shot
    if asked is None:
        return data
    like, where = data.public.test.arrays["pixel_values"], "evaluation.few_shot"
    of_source = {field: getattr(asked, field) for field in Source.model_fields}
    settings = config.data.model_copy(
        update={**of_source, "proxy": None, "modality": "image", "image_size": like.shape[-1]}
    )
    try:
        raw = fitted(_load(settings, generator(config.seed, "data/held out")), like)
    except ConfigError as error:
        raise ConfigError(error.field.replace("data", where, 1), error.value, error.expected) from None
    each = max(asked.shots) + asked.queries
    enough = int((np.bincount(raw.groups) >= each).sum())
    if enough < asked.ways:
        expected = f"at most {enough}: so many classes have {each} images"
        raise ConfigError(f"{where}.ways", asked.ways, expected)
    assert raw.pixels is not None
    columns = {"pixel_values": raw.pixels, "labels": raw.groups}
    if data.tokenizer_json is not None:  # of a dual encoder: what its images are called
        names = [captions.say(config.data.templates[0], name) for name in raw.group_names]
        ids = tokenizers.encode_captions(
            data.tokenizer_json, names, len(data.prompt_ids[0]), data.end_of_text or 0
        )
        if len(np.unique(ids, axis=0)) == len(ids):  # or who is called as another would be right for nothing
            columns["input_ids"] = ids[raw.groups]
    images = Examples(columns, raw.groups, raw.keys)
    return replace(data, public=replace(data.public, held_out=images))


def _load(data: DataConfig, rng: np.random.Generator) -> Raw:
    if data.source in MODALITIES:
        for name in NOT_OF_BUNDLED:
            if (value := getattr(data, name)) != DataConfig.model_fields[name].default:
                raise ConfigError(f"data.{name}", value, f"nothing: {data.source} doesn't read it")
    raw = _known(SOURCES, "data.source", data.source)(data, rng)
    if raw.modality == "image" and data.modality == "image_text":
        raw = replace(raw, modality="image_text")
    if data.modality not in (None, raw.modality):
        raise ConfigError("data.modality", data.modality, f"{raw.modality}, or nothing: {data.source} tells")
    if raw.modality != "text" and data.answers and not (raw.labelled or raw.captions):
        expected = "a column of labels: images are learnt by them"
        raise ConfigError("data.label_column", data.label_column, expected)
    return raw


def _divide(config: RunConfig, raw: Raw) -> tuple[Raw, dict[str, np.ndarray]]:
    """All examples of the run with the captions that may be known, and the splits they are in."""
    data, brought = config.data, bool(raw.captions)
    if raw.modality != "text" and data.proxy_labelled and not raw.labelled:
        raise ConfigError("data.proxy_labelled", True, "false: the data has captions and no labels")
    splits = split(raw.groups, data.split, generator(config.seed, "data/split"), proxy=data.proxy is None)
    if data.proxy is not None:
        raw, splits["proxy"] = join(raw, _load_proxy(config), data)
    if raw.modality == "image_text":
        told = captions.of_labels(raw, data.templates, generator(config.seed, "data/captions"))
        if data.proxy is None and not brought and not data.proxy_labelled:
            for i in splits["proxy"]:
                told[i] = ""  # it would say the label
        raw = replace(raw, captions=told)
    return raw, splits


def _load_proxy(config: RunConfig) -> Raw:
    try:
        return _load(config.data.of_proxy, generator(config.seed, "data/draw proxy"))
    except ConfigError as error:
        field = error.field.replace("data.", "data.proxy.", 1)
        raise ConfigError(field, error.value, error.expected) from None


def overlap(examples: Examples, *others: Examples) -> int:
    """How many of the examples have an input that also stands in one of the others, bit for bit.

    Documents never stand in two splits, but two documents can share a stretch of text (a licence,
    a table) that happens to be cut into the same window: this counts them.
    """
    column = "pixel_values" if "pixel_values" in examples.arrays else "input_ids"
    seen = {row.tobytes() for other in others for row in other.arrays[column]}
    return sum(row.tobytes() in seen for row in examples.arrays[column])


def asked_for(prompt: str) -> str:
    """A prompt as it stands before its answer in a window."""
    return f"{prompt}\n"


def _build_text(plan: Plan) -> Federation:
    data, raw = plan.config.data, plan.raw
    if data.tokenizer is None:
        texts = (raw.prompts, raw.documents) if raw.prompts else (raw.documents,)
        public = [each[i] for each in texts for i in plan.splits["proxy"]]
        tokenizer_json, end = tokenizers.train(public, data.vocabulary), 0
    else:
        tokenizer_json, end = tokenizers.load(data.tokenizer)
    tokens = tokenizers.encode(tokenizer_json, raw.documents, end)
    asked = tokenizers.encode(tokenizer_json, [asked_for(prompt) for prompt in raw.prompts])

    def windows(index: np.ndarray) -> Examples:
        if asked:
            pairs = [(asked[i][:-1], tokens[i]) for i in index]
            return tokenizers.answer(pairs, raw.groups[index], raw.keys[index], data.window)
        # A proxy set of its own has no domain of these: −1, which can't be counted.
        names, groups = np.unique(raw.groups[index], return_inverse=True)
        packed = tokenizers.pack([tokens[i] for i in index], groups, raw.keys[index], data.window)
        return replace(packed, groups=names[packed.groups])

    # Documents fill windows together; a row with a prompt is in one alone, which has to hold it.
    window = "a larger" if asked else "a smaller"

    def fit(number: int) -> str:
        said = f"of its {number} rows none fits" if asked else f"its {number} documents don't fill"
        return f"{said} one window of {data.window} tokens"

    public_parts = {name: windows(plan.splits[name]) for name in ("proxy", "validation", "test")}
    for name, examples in public_parts.items():
        if not len(examples):
            raise ConfigError(
                f"data.split.{name}",
                getattr(data.split, name),
                f"a larger fraction, or {window} data.window: {fit(len(plan.splits[name]))}",
            )
    shards = []
    for participant, (train, test) in enumerate(plan.shards):
        shard = Shard(participant, windows(train), windows(test))
        if not len(shard.train):
            raise ConfigError(
                "participants.partition.minimum",
                plan.config.participants.partition.minimum,
                f"a larger minimum, or {window} data.window: {fit(len(train))} "
                f"(participant {participant}, to train on)",
            )
        shards.append(shard)
    parts = [*public_parts.values(), *(part for shard in shards for part in (shard.train, shard.test))]
    return _assemble(
        plan,
        Public(**public_parts),
        shards,
        left_out=len(raw) - sum(map(len, parts)) if asked else 0,
        classes=tokenizers.size(tokenizer_json),
        tokenizer_json=tokenizer_json,
        end_of_text=end,
        image_shape=None,
    )


def _build_images(plan: Plan) -> Federation:
    raw = plan.raw
    assert raw.pixels is not None
    columns = {"pixel_values": raw.pixels}
    if raw.labelled:
        columns["labels"] = raw.groups
    asked: dict[str, Any] = {"classes": len(raw.group_names), "tokenizer_json": None, "end_of_text": None}
    if raw.modality == "image_text":
        columns["input_ids"], asked = _texts(plan)

    def examples(index: np.ndarray) -> Examples:
        arrays = {name: column[index] for name, column in columns.items()}
        return Examples(arrays, raw.groups[index], raw.keys[index])

    proxy = examples(plan.splits["proxy"])
    # Removed rather than ignored, so that no method can look.
    if not plan.config.data.proxy_labelled:
        arrays = {name: column for name, column in proxy.arrays.items() if name != "labels"}
        proxy = replace(proxy, arrays=arrays, groups=np.full(len(proxy), UNKNOWN, dtype=np.int64))
    if raw.captions and not all(raw.captions[i] for i in plan.splits["proxy"]):
        arrays = {name: column for name, column in proxy.arrays.items() if name != "input_ids"}
        proxy = replace(proxy, arrays=arrays)
    channels, height, width = raw.pixels.shape[1:]
    return _assemble(
        plan,
        Public(proxy, examples(plan.splits["validation"]), examples(plan.splits["test"])),
        [Shard(p, examples(train), examples(test)) for p, (train, test) in enumerate(plan.shards)],
        image_shape=(channels, height, width),
        **asked,
    )


def _texts(plan: Plan) -> tuple[np.ndarray, dict[str, Any]]:
    """Captions [N, S] int32, and what of a federation their tokenizer and the prompts decide."""
    data, public, rng = plan.config.data, plan.splits["proxy"], generator(plan.config.seed, "data/prompts")
    prompts = captions.prompts(plan.raw, public, data, rng)
    tokenizer, end, ids, prompt_ids = captions.tokenized(plan.raw, public, prompts, data)
    return ids, {
        "classes": len(prompts),
        "tokenizer_json": tokenizer,
        "end_of_text": end,
        "prompts": prompts,
        "prompt_ids": tuple(map(tuple, prompt_ids.tolist())),
    }


def _assemble(plan: Plan, public: Public, shards: Sequence[Shard], **fields: Any) -> Federation:
    raw = plan.raw
    prints = {name: _fingerprint([getattr(public, name)]) for name in ("proxy", "validation", "test")}
    prints["private"] = _fingerprint([part for s in shards for part in (s.train, s.test)])
    if fields["tokenizer_json"] is not None:
        prints["tokenizer"] = blake2b(fields["tokenizer_json"].encode(), digest_size=16).hexdigest()
    return Federation(
        modality=raw.modality,
        public=public,
        shards=tuple(shards),
        group_names=raw.group_names,
        distribution=distribution(
            raw.groups, [np.concatenate(shard) for shard in plan.shards], len(raw.group_names)
        ),
        fingerprints=prints,
        description=raw.description,
        origin=raw.origin,
        **fields,
    )


def _fingerprint(parts: Sequence[Examples]) -> str:
    """BLAKE2b over every column's name, type, shape and little-endian content, part by part."""
    digest = blake2b(digest_size=16)
    for part in parts:
        columns = {**part.arrays, "groups": part.groups, "keys": part.keys}
        for name, column in sorted(columns.items()):
            little = column.astype(column.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
            digest.update(np.ascontiguousarray(little).data)
    return digest.hexdigest()


def _known(registry: Mapping[str, T], field: str, name: str) -> T:
    if name not in registry:
        raise ConfigError(field, name, "one of " + ", ".join(sorted(registry)))
    return registry[name]

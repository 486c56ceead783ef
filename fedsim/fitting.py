"""Whether the models that a config names can be built for its data: found in the driver, before any actor.

Presets always can. A folder's type, shape and weights are tried here, which imports torch and transformers.
"""

from __future__ import annotations

from fedsim.config import RunConfig
from fedsim.data import federation, tokenizers
from fedsim.methods import METHODS
from fedsim.models.presets import PRESETS
from fedsim.types import Interface


def trains_tokenizer(config: RunConfig) -> bool:
    """Whether only the built data tells how large the vocabulary is."""
    return config.data.tokenizer is None and config.data.reads != "image"


def foreseen(plan: federation.Plan) -> Interface:
    """What the data will demand, as far as it decides how a model is built; of a vocabulary that is still to
    be trained, the most that it can be."""
    data, raw = plan.config.data, plan.raw
    vocabulary = tokenizers.size(tokenizers.load(data.tokenizer)[0]) if data.tokenizer else data.vocabulary
    if raw.pixels is None:
        return Interface("text", vocabulary, data.window, group_names=raw.group_names)
    channels, height, width = raw.pixels.shape[1:]
    return Interface(
        raw.modality,
        classes=len(raw.group_names),
        window=data.window,
        image_shape=(channels, height, width),
        group_names=raw.group_names,
        vocabulary=vocabulary if raw.modality == "image_text" else 0,
    )


def check(config: RunConfig, interface: Interface, *, built: bool) -> None:
    """Raise ConfigError, with the field that names it, for a folder that is no model for this data.

    built: the data is, so that its vocabulary is known.
    """
    growing = trains_tokenizer(config) and not built
    tried: set[str] = set()
    for field, name in named(config).items():
        if name not in PRESETS and name not in tried:
            from fedsim.models import factory

            factory.check(name, interface, field, growing=growing)
            tried.add(name)


def named(config: RunConfig) -> dict[str, str]:
    """Field → the model that it names."""
    people = {f"participants.models.{k}": model for k, model in enumerate(config.participants.models)}
    methods = {
        f"methods.{k}.{option}": model
        for k, entry in enumerate(config.methods)
        for option, model in METHODS[entry.name].models(entry).items()
    }
    return {**people, "student.model": config.student.model, **methods}

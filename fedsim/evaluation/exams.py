"""What a student is put to after the last round, beside its score: parts of the test set, held-out tasks,
instructions, retrieval.

    group/<name>                     `fedsim.evaluation.breakdown`
    retrieval/<measure>              `fedsim.evaluation.retrieval`
    few_shot/<n>_shot                `fedsim.evaluation.few_shot`
    task/<name>/<n>_shot/<measure>   `fedsim.evaluation.questions`
    instructions/<measure>           `fedsim.evaluation.instructions`, of the likeliest answer

The driver reads the files and finds what is wrong with them; their text travels to the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim import energy
from fedsim.config import RunConfig
from fedsim.data import federation, tokenizers
from fedsim.errors import ConfigError
from fedsim.evaluation import breakdown, few_shot, instructions, questions, retrieval
from fedsim.extras import install
from fedsim.types import Examples, Public

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner
    from fedsim.world import World


def check(config: RunConfig, modality: str) -> None:
    """Raise ConfigError for what can't be measured on this kind of data, or with what is installed."""
    asked = config.evaluation
    for field, needs in (
        ("generate", "text"), ("tasks", "text"), ("instructions", "text"), ("retrieval", "image_text"),
    ):  # fmt: skip
        value = getattr(asked, field)
        if value and modality != needs:
            nothing = {"tasks": "[]", "instructions": "null"}.get(field, "0")
            expected = f"{nothing}: it is for {needs}, and the data is {modality}"
            raise ConfigError(f"evaluation.{field}", value, expected)
    if asked.few_shot is not None and modality == "text":
        raise ConfigError("evaluation.few_shot", asked.few_shot.source, "null: it is for images; see tasks")
    if asked.generate and (find_spec("rouge_score") is None or find_spec("sacrebleu") is None):
        raise ConfigError("evaluation.generate", asked.generate, f"0, or: {install('generation')}")
    if asked.generate and config.data.prompt_column is None and asked.prompt >= config.data.window:
        expected = f"less than data.window, {config.data.window}: nothing could follow"
        raise ConfigError("evaluation.prompt", asked.prompt, expected)
    names = [task.name for task in asked.tasks]
    if len(set(names)) < len(names):
        raise ConfigError("evaluation.tasks", names, "a name of its own for each")
    energy.check(config)
    read(config)


def read(config: RunConfig) -> dict[str, str]:
    """Path → text of the files that are asked for. Raises ConfigError where one can't be read or used."""
    asked, texts = config.evaluation, {}
    for place, task in enumerate(asked.tasks):
        field = f"evaluation.tasks.{place}.path"
        texts[task.path], items = _parsed(field, task.path, questions.parse)
        need = max(task.shots) + 1
        if len(items) < need:
            raise ConfigError(
                field, task.path, f"at least {need} items, for {need - 1} examples; it has {len(items)}"
            )
    if asked.instructions is not None:
        field = "evaluation.instructions"
        texts[asked.instructions], items = _parsed(field, asked.instructions, instructions.parse)
        if not items:
            raise ConfigError(field, asked.instructions, "at least one item")
    return texts


def taken(world: World, learner: Learner, public: Public) -> dict[str, float]:
    """All measures that the config asks for; `group` always."""
    test = public.test
    found = breakdown.by_group(learner, test, world.interface.group_names)
    asked = world.config.evaluation
    if asked.retrieval and "input_ids" in test.arrays:
        number = min(asked.retrieval, len(test))
        pairs = test.take(np.arange(number) * len(test) // number)
        recalls = retrieval.retrieved(learner, pairs)
        found |= {f"retrieval/{name}": value for name, value in recalls.items()}
    if asked.few_shot is not None and public.held_out is not None:
        shares = few_shot.tried(learner, public.held_out, asked.few_shot, world.seed)
        found |= {f"few_shot/{name}": value for name, value in shares.items()}
    for task in asked.tasks:
        assert world.tokenizer is not None
        items = questions.parse(world.exams[task.path])
        for shots in task.shots:
            right = questions.answered(
                learner, items, shots, world.tokenizer, world.interface.window, reserved=max(task.shots)
            )
            found |= {f"task/{task.name}/{shots}_shot/{name}": value for name, value in right.items()}
    if asked.instructions is not None:
        asks = instructions.parse(world.exams[asked.instructions])
        shares = instructions.measure(asks, _answers(world, learner, [item.prompt for item in asks]))
        found |= {f"instructions/{name}": value for name, value in shares.items()}
    return found


def _answers(world: World, learner: Learner, prompts: Sequence[str]) -> list[str]:
    """What the student holds likeliest behind each prompt; one that leaves less room than
    `evaluation.longest` tokens loses its beginning."""
    assert world.tokenizer is not None
    window, end = world.interface.window, world.interface.end_of_text
    most = min(world.config.evaluation.longest, window - 1)
    if world.config.data.prompt_column is not None:
        prompts = [federation.asked_for(prompt) for prompt in prompts]  # as it has learnt to be asked
    tokens = [ids[:-1][-(window - most) :] for ids in tokenizers.encode(world.tokenizer, prompts)]
    ids, nothing = np.zeros((len(tokens), window), np.int32), np.zeros(len(tokens), np.int64)
    for row, given in zip(ids, tokens, strict=True):
        row[: len(given)] = given
    lengths = np.array([len(given) for given in tokens], np.int64)
    examples = Examples({"input_ids": ids}, nothing, nothing.astype(np.uint64))
    offsets, made = learner.generate(examples, lengths, np.full(len(tokens), most), end=end, key=None)
    return tokenizers.decode(world.tokenizer, np.split(made, offsets[1:-1]), end)


def _parsed(field: str, path: str, parse: Callable[[str], list[Any]]) -> tuple[str, list[Any]]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(field, path, "a file of JSON lines that can be read") from None
    try:
        return text, parse(text)
    except ValueError as error:
        raise ConfigError(field, path, f"another file ({error})") from None

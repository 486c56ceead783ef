"""What methods share in which models continue prompts of the proxy set.

A prompt is what the data says it is (`data.prompt_column`), else the beginning of a window. All ends know
from the seed which prompts a round is about, and who continues which.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError
from fedsim.events import asked
from fedsim.learning.sequences import continued, prompt_lengths, room
from fedsim.methods.base import Desk, Method, Site
from fedsim.methods.federated_distillation import proxy_slice, round_half_up
from fedsim.types import Examples, Sequences


class PromptSettings(Settings):
    sequences: Annotated[int, Field(ge=1)] = 64
    """Prompts of the proxy set that a round is about, each continued once."""
    prompt: Annotated[int, Field(ge=1)] = 16
    """Tokens of a window that are its prompt, where the data has no prompts of its own."""
    longest: Annotated[int, Field(ge=1)] = 48
    """Most tokens that a continuation has."""
    language: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the ordinary loss on the proxy set in the student's training."""


class Prompted(Method):
    samples_known: ClassVar[bool] = True
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    settings: PromptSettings

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        settings = cls.Settings.model_validate(entry.options)
        assert isinstance(settings, PromptSettings)
        if config.data.prompt_column is None and settings.prompt >= config.data.window:
            expected = f"less than data.window, {config.data.window}: nothing could follow"
            raise ConfigError(f"{where}.prompt", settings.prompt, expected)

    def samples(self, round: int) -> np.ndarray:
        """The proxy samples whose prompts a round is about, [N] ascending."""
        return proxy_slice(self.world, round, min(1.0, self.settings.sequences / self.world.proxy_size))

    def share(self, round: int, participant: int, part: float, dealt: int) -> np.ndarray:
        """Which of a round's samples a participant continues, ascending; nobody else continues these.

        part: of the samples that participants continue at all.   dealt: the round in which they do it.
        """
        every = self.samples(round)
        # Evenly over the round's samples, so that no domain is left to one side.
        number = round_half_up(part * len(every))
        theirs = every[np.arange(number) * len(every) // max(1, number)]
        people = asked(self.world.config, dealt)
        mine: np.ndarray = (
            theirs[people.index(participant) :: len(people)] if participant in people else theirs[:0]
        )
        return mine

    def room(self, proxy: Examples) -> np.ndarray:
        """Most tokens that may follow each sample's prompt."""
        return room(proxy, self.settings.prompt, self.settings.longest)

    def generate(self, who: Site | Desk, samples: np.ndarray, round: int, sender: int) -> Sequences:
        """Continuations by the model of `who`."""
        some = who.public.proxy.take(samples)
        prompts = prompt_lengths(some, self.settings.prompt)
        end, key = self.world.interface.end_of_text, self.key(round, sender, "generate")
        return Sequences(samples, *who.learner.generate(some, prompts, self.room(some), end=end, key=key))

    def examples(self, who: Site | Desk, sequences: Sequences) -> Examples:
        """The sequences as windows of which only the continuations are asked."""
        some = who.public.proxy.take(sequences.samples)
        return continued(some, self.settings.prompt, sequences.offsets, sequences.tokens)

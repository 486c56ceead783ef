"""What both ends agree on before a message is opened, and how its sender writes it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from fedsim.wire.delta import Reference


@dataclass(frozen=True)
class Expectation:
    """What the receiver knows about a message before it opens it. Anything else is "unexpected".

    kind, direction, round, sender: as in Message.
    Responses only: classes K, positions p, levels L (coarser: or fewer); proxy_size, sample ids are below
    it; samples [n] int64, if given the message must be about exactly these, and may leave them out;
    groups G that there must be skills for; tail, whether rows may leave some of their quanta to all
    classes; reference, rows that the message may be coded against.
    Parameters, updates and masked sums: size P; updates: levels, their largest code.
    Features: their layers, at most `rank` columns, and samples as for responses.
    Prototypes: `rank` numbers each, of `groups` groups with at most `slots` each.
    A mixture: what may be in it, any of these, by `parts`.
    Sequences: classes, samples and proxy_size as for responses, at most `positions` tokens in each sequence;
    at most `size` sequences are scored; at most `draws` tokens beside each; levels of the rows, 0 where there
    must be none.
    """

    kind: str
    direction: str
    round: int
    sender: int
    _: KW_ONLY
    classes: int = 0
    positions: int = 0
    levels: int = 0
    coarser: bool = False
    proxy_size: int = 0
    samples: np.ndarray | None = None
    size: int = 0
    draws: int = 0
    tail: bool = False
    reference: Reference | None = None
    layers: int = 0
    rank: int = 0
    groups: int = 0
    slots: int = 0
    parts: tuple[Expectation, ...] = ()

    @property
    def samples_known(self) -> bool:
        """Whether the receiver knows what samples all parts of the message are about."""
        about_samples = [part for part in self.parts if part.kind != "prototypes"]
        return self.samples is not None or (bool(self.parts) and all(p.samples_known for p in about_samples))


@dataclass(frozen=True)
class Style:
    """How a sender writes.   samples_known, coder, reference: see `encode`."""

    samples_known: bool = False
    coder: str = "ans"
    reference: Reference | None = None

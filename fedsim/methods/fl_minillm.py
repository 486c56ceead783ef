"""FL-MiniLLM: participants and coordinator teach each other, sequence by sequence, by reverse KL.

The loss and its gradient are MiniLLM's (Gu, Dong, Wei, Huang; ICLR 2024; arXiv 2306.08543), see
`policy_gradient`; that the two sides alternate as teacher and student is FL-MiniLLM's. In round r:

    down      sequences y for prompts of the proxy set, sampled by the student q (a part by participants,
              in round r − 1), with log q(y_t) from round 2 on
    student teaches       participant k minimises KL(p_k ‖ q) on these by policy gradient, and the
                          ordinary loss on its own shard
    up        log p_k(y_t) of the same sequences; new ones for its own share of the next round's prompts
    pool      p̄(y_t) = Σ_k w_k(x) p_k(y_t) ÷ Σ_k w_k(x),   w_k(x) = exp(−confidence · loss_k(x))
    participants teach    the student minimises KL(q ‖ p̄) by policy gradient, and the ordinary loss on
                          the proxy set

    policy gradient       r_t = log p̄ − log q, R_{t+1} over the tokens that follow, per token, discounted by
                          γ; w_t = q ÷ (α p̄ + (1 − α) q); ratios clipped, several passes over a round's
                          sequences

`feedback` says what is known of a teacher: at every token its whole distribution (on a fine grid) or a
sparse, unbiased sample of it, with which the single step is exact; or the log-probability of the token
alone, where the single step is sampled, too (r_t is added to what its token earns).

Deviations. Sequences are mixed, not tokens: a share α of them is sampled by participants, each on prompts
that nobody else continues, because a token can't be sampled from models in different places without a
message for each. Participants' own prompts are such shares of the proxy set: prompts of their shards would
have to leave them. The mean reward is taken off as a baseline, and rewards are not divided by their
deviation, so that both parts of the gradient keep their proportion. A warm start is `pretraining`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim import returns
from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.responses import as_pooled
from fedsim.aggregation.rollouts import RolloutPool
from fedsim.config import Settings
from fedsim.methods.base import Desk, Pool, Site
from fedsim.methods.prompted import Prompted, PromptSettings
from fedsim.sequences import merged
from fedsim.training import Fit, Lesson, Objective, Stream
from fedsim.types import COORDINATOR, Examples, Knowledge, Responses, Rollouts, Sequences
from fedsim.wire.messages import Expectation

_FINE = 65535
"""Levels of the grid that whole distributions are sent on."""


class MiniLLMSettings(PromptSettings):
    feedback: Literal["full", "sparse", "scalar"] = "sparse"
    """What is sent of a teacher at every token: its distribution, `draws` draws from it, or nothing but the
    log-probability of the token."""
    draws: Annotated[int, Field(ge=1, le=4096)] = 16
    """Draws with `sparse` feedback."""
    mixing: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """α, part of the sequences that the participants sample."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Discount of later rewards."""
    per_token: bool = True
    """Whether what follows a token is divided by its length."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε of PPO: how far a token's probability may move from where the sequences were scored."""
    policy: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the policy gradient in the student's training."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Sequences in each step; all steps of a round together pass over them several times."""
    confidence: Annotated[float, Field(ge=0)] = 1.0
    """How much a lower loss on a sample raises a participant's weight there; 0 is uniform."""
    teach: Annotated[float, Field(ge=0)] = 0.5
    """Weight of what participants learn from the student beside their shard; 0 is one-way."""


class FLMiniLLM(Prompted):
    Settings: ClassVar[type[Settings]] = MiniLLMSettings
    settings: MiniLLMSettings

    @property
    def levels(self) -> int:
        """Of the grid of distributions; 0 where none are sent."""
        return {"full": _FINE, "sparse": self.settings.draws, "scalar": 0}[self.settings.feedback]

    def teaches(self, round: int) -> bool:
        """Whether the student teaches: in round 1 it is still the public start, which everybody has."""
        return round > 1 and self.settings.teach > 0

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        asked = _recalled(desk.memory)
        if not self.teaches(round):
            return Rollouts(asked)
        scores, rows = self._scores(desk, self.examples(desk, asked), round, COORDINATOR)
        return Rollouts(asked, scores, rows)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        assert isinstance(received, Rollouts)
        asked = received.sequences
        assert asked is not None
        who, examples = site.participant, self.examples(site, asked)
        streams = [self.labelled(site.shard.train, who)]
        if received.scores is not None:
            old, _ = self._scores(site, examples, round, who, levels=0)
            rows = as_pooled(received.rows) if received.rows is not None else None
            # To a participant all sequences but its own come from the other side.
            mixing = 1 - self.settings.mixing
            lesson = self._lesson(asked, received.scores, old, rows, mixing)
            streams.append(self._stream(examples, lesson, self.settings.teach))
        fit = site.learner.fit(self.phase(round, who, "local", *streams))
        scores, rows_of = self._scores(site, examples, round, who)
        claims = (
            site.learner.sample_losses(site.public.proxy, asked.samples) if self.settings.confidence else None
        )
        mine = self._share(round + 1, who)
        fresh = self.generate(site, mine, round, who) if len(mine) else None
        return Rollouts(fresh, scores, rows_of, claims), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        up = direction == "up"
        samples = self.samples(round)
        return Expectation(
            kind="sequences",
            direction=direction,
            round=round,
            sender=sender,
            classes=self.world.interface.classes,
            positions=self.settings.longest,
            levels=self.levels if up or self.teaches(round) else 0,
            proxy_size=self.world.proxy_size,
            samples=self._share(round + 1, sender) if up else samples,
            size=len(samples),
        )

    def pool(self, desk: Desk, round: int) -> Pool | None:
        asked = self._sequences(desk, round)
        proxy, confidence = desk.public.proxy, self.settings.confidence
        return RolloutPool(
            asked,
            classes=self.world.interface.classes,
            levels=self.levels,
            confidence=confidence,
            reference=desk.learner.sample_losses(proxy, asked.samples) if confidence else None,
            room=self.room(proxy),
            end=self.world.interface.end_of_text,
        )

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, RolloutPool)
        asked = _recalled(desk.memory)
        examples = self.examples(desk, asked)
        old, _ = self._scores(desk, examples, round, COORDINATOR, levels=0)
        teacher = pool.log_probs()
        lesson = self._lesson(asked, teacher, old, pool.rows(), self.settings.mixing)
        streams = [self._stream(examples, lesson, self.settings.policy)]
        if self.settings.language:
            plain = self.labelled(desk.public.proxy, COORDINATOR)
            streams.append(replace(plain, weight=self.settings.language))
        fit = desk.learner.fit(self.phase(round, COORDINATOR, "learn", *streams))
        _remember(desk.memory, merged([pool.fresh[k] for k in sorted(pool.fresh)]), "fresh_")
        own = desk.memory["own"].astype(bool)[asked.owner]
        return replace(fit, terms={**fit.terms, "reverse_kl": float((old - teacher)[own].mean())})

    def _share(self, round: int, participant: int) -> np.ndarray:
        """The samples of a round whose prompts a participant continues in the round before."""
        if round > self.world.config.rounds:
            return np.zeros(0, np.int64)
        return self.share(round, participant, self.settings.mixing, dealt=round - 1)

    def _sequences(self, desk: Desk, round: int) -> Sequences:
        """The round's sequences: what participants delivered in the last, the rest by the student."""
        samples = self.samples(round)
        fresh = _recalled(desk.memory, "fresh_") if "fresh_samples" in desk.memory else merged([])
        # Used once: should nobody deliver in this round, there are none for the next.
        for name in [name for name in desk.memory if name.startswith("fresh_")]:
            del desk.memory[name]
        own = ~np.isin(samples, fresh.samples)
        asked = merged([fresh, self.generate(desk, samples[own], round, COORDINATOR)])
        _remember(desk.memory, asked)
        desk.memory["own"] = own.astype(np.uint8)
        return asked

    def _scores(
        self, who: Site | Desk, examples: Examples, round: int, sender: int, levels: int | None = None
    ) -> tuple[np.ndarray, Responses | None]:
        """What the model of `who` makes of the sequences' tokens."""
        return who.learner.score_tokens(
            examples,
            levels=self.levels if levels is None else levels,
            quantiser="sample" if self.settings.feedback == "sparse" else "largest_remainder",
            key=self.key(round, sender, "score"),
        )

    def _lesson(
        self, asked: Sequences, teacher: np.ndarray, old: np.ndarray, rows: Pooled | None, mixing: float
    ) -> Lesson:
        """teacher, old: log-probabilities of the tokens under the teacher and the one who learns."""
        earned = returns.rewards(teacher, old)
        after = returns.long_term(
            earned, asked.offsets, self.settings.gamma, per_token=self.settings.per_token
        )
        advantages = after if rows is not None else earned + after
        return Lesson(
            offsets=asked.offsets,
            old=old,
            advantages=(advantages - advantages.mean()).astype(np.float32),
            weights=returns.mixed_weights(old, teacher, mixing).astype(np.float32),
            clip=self.settings.clip,
            teacher=rows,
        )

    def _stream(self, examples: Examples, lesson: Lesson, weight: float) -> Stream:
        return Stream(examples, self.settings.batch, Objective(task=0.0), weight=weight, lesson=lesson)


def _remember(memory: dict[str, np.ndarray], sequences: Sequences, prefix: str = "") -> None:
    for name in ("samples", "offsets", "tokens"):
        memory[prefix + name] = getattr(sequences, name)


def _recalled(memory: dict[str, np.ndarray], prefix: str = "") -> Sequences:
    return Sequences(*(memory[prefix + name] for name in ("samples", "offsets", "tokens")))

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

`feedback` says what is known of a teacher at every token: its whole distribution (on a fine grid), with
which the single step is exact; its log-probabilities of `draws` more tokens that the student drew there,
with which the single step is an average over these, unbiased; or of the sampled token alone, to which r_t
is added. (Draws from the teacher, as sparse logit sampling has them, are unbiased for its probabilities and
so for the forward KL; the reverse KL has their logarithm, and is infinite wherever nothing was drawn.)

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

from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.responses import as_pooled
from fedsim.aggregation.rollouts import RolloutPool
from fedsim.config import Settings
from fedsim.evaluation.generated import excess_error
from fedsim.learning import returns
from fedsim.learning.sequences import merged
from fedsim.learning.training import Fit, Lesson, Objective, Stream
from fedsim.methods.base import Desk, Pool, Site
from fedsim.methods.prompted import Prompted, PromptSettings
from fedsim.types import COORDINATOR, Examples, Knowledge, Responses, Rollouts, Sequences
from fedsim.wire.expectation import Expectation

_FINE = 65535
"""Levels of the grid that whole distributions are sent on."""


class MiniLLMSettings(PromptSettings):
    feedback: Literal["full", "sparse", "scalar"] = "sparse"
    """What is sent of a teacher at every token: its distribution, the log-probabilities of `draws` other
    tokens, or nothing but that of the token itself. To participants `sparse` is as `scalar`."""
    draws: Annotated[int, Field(ge=1, le=4096)] = 8
    """With `sparse` feedback."""
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
        return _FINE if self.settings.feedback == "full" else 0

    @property
    def draws(self) -> int:
        """Tokens beside each one that are scored, too."""
        return self.settings.draws if self.settings.feedback == "sparse" else 0

    def teaches(self, round: int) -> bool:
        """Whether the student teaches: in round 1 it is still the public start, which everybody has."""
        return round > 1 and self.settings.teach > 0

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        asked = _recalled(desk.memory)
        drawn = desk.memory.get("drawn")
        if not self.teaches(round):
            return Rollouts(asked, drawn)
        examples = self.examples(desk, asked)
        return Rollouts(asked, drawn, desk.learner.score_tokens(examples), self._rows(desk, examples, round))

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        assert isinstance(received, Rollouts)
        asked = received.sequences
        assert asked is not None
        who, examples = site.participant, self.examples(site, asked)
        streams = [self.labelled(site.shard.train, who)]
        if received.scores is not None:
            old = site.learner.score_tokens(examples)
            rows = as_pooled(received.rows) if received.rows is not None else None
            # To a participant all sequences but its own come from the other side.
            mixing = 1 - self.settings.mixing
            lesson = self._lesson(asked, received.scores, old, mixing, rows=rows)
            streams.append(self._stream(examples, lesson, self.settings.teach))
        fit = site.learner.fit(self.phase(round, who, "local", *streams))
        scores = site.learner.score_tokens(examples, received.drawn)
        claims = site.learner.claims(site.public.proxy, asked.samples) if self.settings.confidence else None
        mine = self._share(round + 1, who)
        fresh = self.generate(site, mine, round, who) if len(mine) else None
        return Rollouts(fresh, None, scores, self._rows(site, examples, round), claims), fit

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
            draws=self.draws,
        )

    def pool(self, desk: Desk, round: int) -> Pool | None:
        asked = self._sequences(desk, round)
        proxy, confidence = desk.public.proxy, self.settings.confidence
        return RolloutPool(
            asked,
            classes=self.world.interface.classes,
            drawn=self.draws,
            levels=self.levels,
            confidence=confidence,
            reference=desk.learner.claims(proxy, asked.samples) if confidence else None,
            room=self.room(proxy),
            end=self.world.interface.end_of_text,
        )

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, RolloutPool)
        asked = _recalled(desk.memory)
        examples = self.examples(desk, asked)
        drawn = desk.memory.get("drawn")
        old, teacher = desk.learner.score_tokens(examples, drawn), pool.log_probs()
        own = desk.memory["own"].astype(bool)
        # α as it was: in the first round, and after one in which messages were lost, the student wrote more.
        mixing = 1 - float(own.mean())
        lesson = self._lesson(asked, teacher, old, mixing, rows=pool.rows(), drawn=drawn)
        streams = [self._stream(examples, lesson, self.settings.policy)]
        if self.settings.language:
            plain = self.labelled(desk.public.proxy, COORDINATOR)
            streams.append(replace(plain, weight=self.settings.language))
        fit = desk.learner.fit(self.phase(round, COORDINATOR, "learn", *streams))
        _remember(desk.memory, merged([pool.fresh[k] for k in sorted(pool.fresh)]), "fresh_")
        apart, mine = old - teacher, own[asked.owner]
        measured = {"reverse_kl": float(apart[mine, 0].mean())}
        if drawn is not None:
            fresh = desk.learner.score_tokens(examples, drawn)
            # Of the same draws, weighted to be the student's as it is now.
            after = np.exp(fresh - old) * (fresh - teacher)
            measured["single_step_kl_before"] = float(apart[mine, 1:].mean())
            measured["single_step_kl_after"] = float(after[mine, 1:].mean())
            measured |= excess_error(apart[:, 1:].mean(1), asked.offsets, own)
        return replace(fit, terms={**fit.terms, **measured})

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
        if self.draws:
            key = self.key(round, COORDINATOR, "draw")
            desk.memory["drawn"] = desk.learner.draw_tokens(self.examples(desk, asked), self.draws, key)
        return asked

    def _rows(self, who: Site | Desk, examples: Examples, round: int) -> Responses | None:
        """The distributions of the model of `who` at the sequences' tokens, where they are sent."""
        if not self.levels:
            return None
        key = self.key(round, COORDINATOR, "rows")  # the grid's nearest point draws nothing
        return who.learner.token_rows(examples, levels=self.levels, quantiser="largest_remainder", key=key)

    def _lesson(
        self,
        asked: Sequences,
        teacher: np.ndarray,
        old: np.ndarray,
        mixing: float,
        *,
        rows: Pooled | None,
        drawn: np.ndarray | None = None,
    ) -> Lesson:
        """teacher, old: [M, 1 + J] log-probabilities of the tokens, and of those drawn beside them, under the
        teacher and the one who learns."""
        rewards = returns.rewards(teacher, old)
        earned = rewards[:, 0]
        after = returns.long_term(
            earned, asked.offsets, self.settings.gamma, per_token=self.settings.per_token
        )
        advantages = after if rows is not None or drawn is not None else earned + after
        return Lesson(
            offsets=asked.offsets,
            old=old[:, 0],
            advantages=(advantages - advantages.mean()).astype(np.float32),
            weights=returns.mixed_weights(old[:, 0], teacher[:, 0], mixing).astype(np.float32),
            clip=self.settings.clip,
            teacher=rows,
            drawn=None if drawn is None else drawn.astype(np.int64),
            drawn_old=None if drawn is None else old[:, 1:],
            drawn_advantages=None if drawn is None else returns.among(rewards[:, 1:]).astype(np.float32),
        )

    def _stream(self, examples: Examples, lesson: Lesson, weight: float) -> Stream:
        return Stream(examples, self.settings.batch, Objective(task=0.0), weight=weight, lesson=lesson)


def _remember(memory: dict[str, np.ndarray], sequences: Sequences, prefix: str = "") -> None:
    for name in ("samples", "offsets", "tokens"):
        memory[prefix + name] = getattr(sequences, name)


def _recalled(memory: dict[str, np.ndarray], prefix: str = "") -> Sequences:
    return Sequences(*(memory[prefix + name] for name in ("samples", "offsets", "tokens")))

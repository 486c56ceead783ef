"""One round's pool of everything that participants send: answers, and what lies inside their models."""

from __future__ import annotations

from fedsim.aggregation.gnmax import GNMaxPool
from fedsim.aggregation.responses import EQUAL, BestPool, ResponsePool
from fedsim.aggregation.robust import RobustPool
from fedsim.aggregation.weights import Weighing
from fedsim.errors import MessageError
from fedsim.knowledge.domains import DomainSum
from fedsim.knowledge.features import ConsensusSum
from fedsim.knowledge.prototypes import PrototypeSum
from fedsim.knowledge.robust import RobustConsensus, RobustPrototypes
from fedsim.types import Knowledge, Mixture, Responses

AnswerPool = ResponsePool | BestPool | RobustPool | GNMaxPool


class MixturePool:
    """responses, features, prototypes: the sums of each kind; None of a kind that nobody is asked for.
    domains: whose answers these are, weighed by `weighing`, where somebody wants to know.
    """

    def __init__(
        self,
        responses: AnswerPool,
        features: ConsensusSum | RobustConsensus | None = None,
        prototypes: PrototypeSum | RobustPrototypes | None = None,
        domains: DomainSum | None = None,
        weighing: Weighing = EQUAL,
    ) -> None:
        self.responses, self.features, self.prototypes = responses, features, prototypes
        self.domains, self._weighing = domains, weighing

    def add(self, participant: int, knowledge: Knowledge) -> None:
        """Raises MessageError, and adds nothing, where a part is missing or prototypes count too many
        examples. Prototypes may be missing: there are none before something is known of their space."""
        mixture = as_mixture(knowledge)
        if mixture.responses is None or (mixture.features is None) != (self.features is None):
            raise MessageError("unexpected", f"only {', '.join(mixture.parts())}")
        if self.prototypes is not None and mixture.prototypes is not None:
            self.prototypes.add(participant, mixture.prototypes)
        self.responses.add(participant, mixture.responses)
        if self.domains is not None:
            weights = self._weighing.units(mixture.responses)
            self.domains.add(participant, mixture.responses.samples, weights)
        if self.features is not None and mixture.features is not None:
            self.features.add(participant, mixture.features)

    def merge(self, other: MixturePool) -> None:
        self.responses.merge(other.responses)  # type: ignore[arg-type]  # of one round, so of one kind
        if self.features is not None and other.features is not None:
            self.features.merge(other.features)  # type: ignore[arg-type]
        if self.prototypes is not None and other.prototypes is not None:
            self.prototypes.merge(other.prototypes)  # type: ignore[arg-type]
        if self.domains is not None and other.domains is not None:
            self.domains.merge(other.domains)


def as_mixture(knowledge: Knowledge | None) -> Mixture:
    """What came in a message, by kind; nothing where none came."""
    if isinstance(knowledge, Mixture):
        return knowledge
    assert knowledge is None or isinstance(knowledge, Responses)
    return Mixture(responses=knowledge)

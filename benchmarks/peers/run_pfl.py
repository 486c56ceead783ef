"""A workload on pfl-research, as its tutorials are written; `torchrun` starts one process or two."""

from __future__ import annotations

import os

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F
from workload import Job, Stopwatch


class Network(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def loss(self, inputs: Tensor, answers: Tensor, eval: bool = False) -> Tensor:
        self.train(not eval)
        return F.cross_entropy(self.layers(inputs), answers)

    def metrics(self, inputs: Tensor, answers: Tensor, eval: bool = False) -> dict[str, object]:
        return {}


class Note(TrainingProcessCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: object, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.watch.note()
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(1)
    job, watch = Job.read(), Stopwatch()
    np.random.seed(0)
    network = Network(job.network())
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0))
    # In memory and ready, as ours are.
    users = {str(k): Dataset(raw_data=list(job.shard(k)), user_id=str(k)) for k in range(job.participants)}
    sampler = get_user_sampler("minimize_reuse", list(users))
    data = FederatedDataset(users.__getitem__, sampler)
    settings = NNAlgorithmParams(
        central_num_iterations=job.rounds,
        evaluation_frequency=job.rounds + 1,
        train_cohort_size=job.participants,
        val_cohort_size=0,
    )
    FederatedAveraging().run(
        algorithm_params=settings,
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=None if job.steps else 0,
            local_num_steps=job.steps or None,
            local_learning_rate=job.rate,
            local_batch_size=job.batch,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=job.batch),
        callbacks=[Note(watch)],
        send_metrics_to_platform=False,
    )
    if os.environ.get("RANK", "0") == "0":
        watch.show()


if __name__ == "__main__":
    main()

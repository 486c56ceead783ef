"""A workload on Flower's simulation with Ray, two clients at a time, as its PyTorch quickstart is written."""

from __future__ import annotations

import logging
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional as F
from workload import Job, Stopwatch

JOB = Job.read()
WATCH = Stopwatch()


def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    model = JOB.network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, answers = JOB.shard(int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=JOB.rate)
    for step in range(JOB.steps):
        first = step * JOB.batch % max(1, len(answers) - JOB.batch + 1)
        loss = F.cross_entropy(model(inputs[first : first + JOB.batch]), answers[first : first + JOB.batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(answers)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    def aggregate_train(self, *args: Any, **kwargs: Any) -> Any:
        found = super().aggregate_train(*args, **kwargs)
        WATCH.note()
        return found


def serve(grid: Grid, context: Context) -> None:
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=JOB.participants)
    start = ArrayRecord(JOB.network().state_dict())
    strategy.start(grid=grid, initial_arrays=start, num_rounds=JOB.rounds)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    client, server = ClientApp(), ServerApp()
    client.train()(train)
    server.main()(serve)
    one = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(server, client, JOB.participants, backend_config={"client_resources": one})
    WATCH.show()

"""Algorithms: what participants send, how it is pooled, how the student learns.

One file each. A new method is a subclass of `base.Method` in a file of its own and one line here.
No method imports torch, ray or deepspeed: it says what is done, the learner does it.
"""

from fedsim import plugins
from fedsim.methods.base import Method
from fedsim.methods.central_distillation import CentralDistillation
from fedsim.methods.centralized import Centralized
from fedsim.methods.cfd import CFD
from fedsim.methods.ds_fl import DSFL
from fedsim.methods.fedavg import FedAvg
from fedsim.methods.feddf import FedDF
from fedsim.methods.federated_distillation import FederatedDistillation
from fedsim.methods.fedmd import FedMD
from fedsim.methods.fedproto import FedProto
from fedsim.methods.fedprox import FedProx
from fedsim.methods.fl_minillm import FLMiniLLM
from fedsim.methods.proxy_only import ProxyOnly
from fedsim.methods.seq_kd import SeqKD
from fedsim.methods.solo import Solo
from fedsim.world import World

METHODS: dict[str, type[Method]] = {
    "federated_distillation": FederatedDistillation,
    "fl_minillm": FLMiniLLM,
    "seq_kd": SeqKD,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "feddf": FedDF,
    "ds_fl": DSFL,
    "fedmd": FedMD,
    "cfd": CFD,
    "fedproto": FedProto,
    "centralized": Centralized,
    "central_distillation": CentralDistillation,
    "solo": Solo,
    "proxy_only": ProxyOnly,
}


def method_of(world: World, contender: str) -> Method:
    """The method of a contender, with its validated settings."""
    plugins.load(world.plugins)  # this may be a process that has not seen them yet
    config = world.contender(contender)
    kind = METHODS[config.name]
    return kind(kind.Settings.model_validate(config.options), world, contender)

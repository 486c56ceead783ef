"""Algorithms: what participants send, how it is pooled, how the student learns.

One file each. A new method is a subclass of `base.Method` in a file of its own and one line here.
No method imports torch, ray or deepspeed: it says what is done, the learner does it.
"""

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
from fedsim.methods.proxy_only import ProxyOnly
from fedsim.methods.solo import Solo

METHODS: dict[str, type[Method]] = {
    "federated_distillation": FederatedDistillation,
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

"""Several processes that train or measure one model: torch.distributed under torchrun, and nothing at all without it.

All of kcv's data parallelism is here, so that `keras.distribution` can take its place once Keras releases its
DataParallel for torch (decision 013). torch's DistributedDataParallel averages gradients while the backward pass still
runs; gloo connects CPUs, NCCL GPUs.
"""

from kcv.distributed.connecting import connect
from kcv.distributed.group import ALONE, Group, PeerLost, told_of_lost_peers

__all__ = ["ALONE", "Group", "PeerLost", "connect", "told_of_lost_peers"]

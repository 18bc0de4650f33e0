"""Several processes that train or measure one model: torch.distributed under torchrun, and nothing at all without it.

All of kcv's data parallelism is here, so that `keras.distribution` can take its place once Keras releases its
DataParallel for torch (decision 013). torch's DistributedDataParallel averages gradients while the backward pass still
runs; gloo connects CPUs, NCCL GPUs.
"""

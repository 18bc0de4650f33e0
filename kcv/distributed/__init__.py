"""Data parallelism: several processes train or evaluate one model with torch.distributed, started by torchrun.

All of kcv's data parallelism is here, so that `keras.distribution` can replace it once Keras releases its DataParallel
for torch (decision 013). torch's DistributedDataParallel averages gradients during the backward pass; gloo connects
CPUs, NCCL connects GPUs.
"""

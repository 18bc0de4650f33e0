"""Random augmentation of whole batches of training images."""

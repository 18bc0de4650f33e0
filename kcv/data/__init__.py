"""From the name of a source to labelled, split images at the size of a model, and batches of them."""

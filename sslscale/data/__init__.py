"""From shards of encoded images to batches of augmented tensors."""

"""Training: the loop, its data order and random streams, pruning, and evaluation."""

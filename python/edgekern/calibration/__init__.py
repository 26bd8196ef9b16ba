"""What pruning and quantising have in common: showing layers their inputs, and settling weights by them."""

"""One module a library: how its users would run a linear layer, or a model, at its best."""

"""Measure programs against each other fairly: one process each, interleaved rounds, idle processes stopped."""

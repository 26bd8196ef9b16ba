"""The commands of `edgekern`; its entry point is in edgekern_cli."""

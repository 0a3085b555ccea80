"""Composition roots, one an executable: they wire planners to adapters and alone write stdout and exit."""

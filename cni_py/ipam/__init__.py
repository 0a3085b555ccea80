"""Planner of the IPAM plugin, host-local's drop-in: which address a container gets, and the texts for when it gets none."""

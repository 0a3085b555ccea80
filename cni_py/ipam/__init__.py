"""Planner of the IPAM plugin, host-local's drop-in: which address a container gets, and why when it gets none."""

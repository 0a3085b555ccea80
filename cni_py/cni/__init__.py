"""Planner of the interface plugin: a request, a lease and facts in, the desired state of the node out. No I/O."""

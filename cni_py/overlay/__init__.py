"""Planners that join nodes: this node, its peers and the facts in, the kernel's state out. No I/O."""

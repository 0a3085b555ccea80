"""cni-py: the pod network of a node. Nothing is imported here, so that each entry point pays only for what it uses."""

__version__ = "0.1.0"

"""The last good view of a source as bytes: a node that boots while the source is away still knows its peers."""

import json
from collections.abc import Mapping
from dataclasses import replace

from cni_py.cluster.record import from_document, render
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node

VERSION = 1


def dump(nodes: Mapping[str, Node], cluster: str) -> bytes:
    """The nodes of a cluster."""
    records = {
        name: {**json.loads(render(node, cidrs=True)), "uid": node.uid, "since": node.since}
        for name, node in nodes.items()
    }
    return json.dumps({"version": VERSION, "cluster": cluster, "nodes": records}).encode()


def load(data: bytes, cluster: str) -> dict[str, Node]:
    """The nodes that `dump` wrote for that cluster; none of another. Raises DecodeError for what it never wrote."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION or document["cluster"] != cluster:
            return {}
        return {
            name: replace(from_document(one, name, cluster), uid=str(one["uid"]), since=int(one["since"]))
            for name, one in document["nodes"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"it is no snapshot of nodes: {error}"[:200], "remove it") from None

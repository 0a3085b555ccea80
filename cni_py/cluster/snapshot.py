"""The last good view of a source as bytes: a node that boots while the source is away still knows its peers.

A line of JSON for the whole, then one for each node: thousands of them are never there as one document,
nor are all of their lines.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from cni_py.cluster.record import parse, render
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node

VERSION = 1


def dump(nodes: Mapping[str, Node], cluster: str) -> bytes:
    """The nodes of a cluster."""
    data = bytearray(json.dumps({"version": VERSION, "cluster": cluster}).encode())
    for name, one in nodes.items():
        data += f"\n{json.dumps([name, one.uid, one.since, render(one, cidrs=True)])}".encode()
    return bytes(data)


def load(data: bytes, cluster: str) -> dict[str, Node]:
    """The nodes that `dump` wrote for that cluster; none of another. Raises DecodeError for what it never wrote."""
    try:
        head, *lines = data.split(b"\n")
        if json.loads(head) != {"version": VERSION, "cluster": cluster}:
            return {}
        found = {}
        for line in lines:
            name, uid, since, record = json.loads(line)
            found[name] = replace(parse(record, name, cluster), uid=str(uid), since=int(since))
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"it is no snapshot of nodes: {error}"[:200], "remove it") from None
    return found

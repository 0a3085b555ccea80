"""The node's place among others in a file: the agent's role `overlay` writes it, an ADD reads it. Of this boot."""

import json
import os
import re
from ipaddress import ip_network
from pathlib import Path

from cni_py.model.errors import CniPyError, DecodeError
from cni_py.model.node_network import NODE_FILE, NodeNetwork
from cni_py.store.whole_file import WholeFile

_MOST_MTU = 65535
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NONE = NodeNetwork()


class NodeFile:
    """The file at `path`, remembered as long as it is the same."""

    def __init__(self, path: str = NODE_FILE) -> None:
        self._path = path
        self._file = WholeFile(Path(path), 1 << 16)
        self._stamp: object = None
        self._known = _NONE

    def write(self, network: NodeNetwork) -> None:
        """This is how it is now. Raises IOFailureError."""
        document = {
            "networks": list(map(str, network.networks)),
            "ranges": list(map(str, network.ranges)),
            "mtu": network.mtu,
            "segment": network.segment,
        }
        self._file.write(json.dumps(document).encode())

    def read(self) -> NodeNetwork:
        """What it says; nothing where no overlay is. What is no such file counts as none."""
        try:
            seen = os.stat(self._path)
        except OSError:
            return _NONE
        stamp = seen.st_ino, seen.st_mtime_ns
        if stamp != self._stamp:
            try:
                self._known = _parse(self._file.read() or b"{}")
            except CniPyError:
                self._known = _NONE
            self._stamp = stamp
        return self._known


def _parse(data: bytes) -> NodeNetwork:
    try:
        document = json.loads(data)
        mtu = int(document.get("mtu", 0))
        networks, ranges = (tuple(map(ip_network, document.get(key, ()))) for key in ("networks", "ranges"))
    except (ValueError, TypeError, AttributeError) as error:
        raise DecodeError(f"it is no node's network: {error}"[:200]) from None
    segment = document.get("segment", "")
    known = segment if isinstance(segment, str) and _MAC.fullmatch(segment) else ""
    return NodeNetwork(networks, ranges, mtu if 0 <= mtu <= _MOST_MTU else 0, known)

"""What this node's pods get by their node's place among the others: their networks, the MTU that the overlay leaves.

The agent's role `overlay` writes it, an ADD reads it: on tmpfs, as it is of this boot.
"""

import json
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cni_py.model.errors import CniPyError, DecodeError
from cni_py.model.result import IPNetwork
from cni_py.store.whole_file import WholeFile

NODE_FILE = "/run/cni-py/node.json"


class NodeFile:
    """The file at `path`, remembered as long as it is the same."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = WholeFile(Path(path), 1 << 16)
        self._stamp: object = None
        self._mtu = 0

    def write(self, cidrs: tuple[IPNetwork, ...], mtu: int) -> None:
        """These are the node's. Raises IOFailureError."""
        self._file.write(json.dumps({"cidrs": list(map(str, cidrs)), "mtu": mtu}).encode())

    def mtu(self) -> int:
        """In bytes; 0 if no overlay has said one. What is no such file counts as none."""
        try:
            seen = os.stat(self._path)
        except OSError:
            return 0
        stamp = seen.st_ino, seen.st_mtime_ns
        if stamp != self._stamp:
            try:
                self._mtu = int(self.read().get("mtu", 0))
            except (CniPyError, ValueError, TypeError):
                self._mtu = 0
            self._stamp = stamp
        return self._mtu if 0 <= self._mtu < 1 << 16 else 0

    def cidrs(self) -> tuple[IPNetwork, ...]:
        """The node's pod networks. Raises DecodeError, IOFailureError."""
        try:
            return tuple(ip_network(one) for one in self.read().get("cidrs", ()))
        except (ValueError, TypeError) as error:
            raise DecodeError(f"{self._path}: {error}"[:200], "restart the agent, which writes it") from None

    def read(self) -> dict[str, Any]:
        """All that it says. Raises DecodeError, IOFailureError."""
        data = self._file.read()
        try:
            document = json.loads(data) if data is not None else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DecodeError(f"{self._path} is no JSON object", "restart the agent, which writes it")
        return document

"""What there is on this node's disk, counted without a lock and without reading each file: for metrics and status."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cni_py.agent.metrics import Usage
from cni_py.ipam.addresses import parse_ip
from cni_py.ipam.config import DATA_DIR
from cni_py.model.lease import Pool
from cni_py.spec import gojson
from cni_py.store.attachments import state_directories
from cni_py.store.lease_disk import Directory, OsDisk
from cni_py.store.lease_index import Index
from cni_py.store.lease_view import number_of

_MOST_PLACES = 64  # who makes up a directory a call does not make us look into all of them


@dataclass(frozen=True, slots=True)
class Census:
    """Looks where leases are by default and where calls said that they are, and at all records of the node."""

    data_dirs: dict[str, None] = field(default_factory=lambda: {DATA_DIR: None})

    def note(self, config: Mapping[str, Any]) -> None:
        """A call with this configuration came."""
        ipam = config.get("ipam")
        if isinstance(ipam, dict) and "dataDir" in ipam and len(self.data_dirs) < _MOST_PLACES:
            path = gojson.get_string(ipam, "dataDir")
            if path.startswith("/"):
                self.data_dirs[os.path.normpath(path)] = None

    def pools(self) -> list[dict[str, Any]]:
        """Each network's pools, as `cni-py ipam show` has them, with `network` and `dataDir`."""
        return [
            {"network": network, "dataDir": data_dir, "ranges": pool.ranges, "size": pool.size} | _use(pool, names)
            for data_dir, network, pools, names in self._networks()
            for pool in pools
        ]

    def usage(self) -> Usage:
        """The numbers of this moment."""
        allocated: dict[str, int] = {}
        capacity: dict[str, int] = {}
        for _, network, pools, names in self._networks():
            allocated[network] = allocated.get(network, 0) + len(names)
            capacity[network] = capacity.get(network, 0) + sum(pool.size for pool in pools)
        return Usage(allocated, capacity, self._attachments())

    def _networks(self) -> Iterator[tuple[str, str, tuple[Pool, ...], list[str]]]:
        """(data directory, network, pools of its last ADD, names of its leases)."""
        for data_dir in list(self.data_dirs):
            for network in _directories(data_dir):
                names = [name for name in _names(f"{data_dir}/{network}") if _is_address(name)]
                yield data_dir, network, _pools(f"{data_dir}/.cni-py/{network}"), names

    def _attachments(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for state_dir in state_directories():
            for network in _directories(f"{state_dir}/attachments"):
                names = _names(f"{state_dir}/attachments/{network}")
                records = sum(name.endswith(".json") and not name.startswith(".") for name in names)
                found[network] = found.get(network, 0) + records
        return found


def _pools(path: str) -> tuple[Pool, ...]:
    try:
        directory = Directory(OsDisk(), path, follow=False)
    except OSError:
        return ()
    try:
        return Index(directory).state().pools
    except OSError:
        return ()
    finally:
        directory.close()


def _use(pool: Pool, names: list[str]) -> dict[str, int]:
    used = 0
    for span in pool.ranges.split(","):
        low, high = (parse_ip(end) for end in (span.partition("-")[0], span.partition("-")[2]))
        if low is not None and high is not None:
            first, last = int(low), int(high)
            numbers = (number_of(name, low.version) for name in names)
            used += sum(number is not None and first <= number <= last for number in numbers)
    return {"used": used, "free": max(0, pool.size - used)}


def _is_address(name: str) -> bool:
    return number_of(name, 6 if ":" in name else 4) is not None


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(one.name for one in entries if not one.name.startswith(".") and one.is_dir())
    except OSError:
        return []


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208  # names are what is wanted
    except OSError:
        return []

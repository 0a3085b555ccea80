"""`cni-py-ipam`: the IPAM plugin's verbs over the leases on disk."""

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cni_py.ipam import verbs
from cni_py.ipam.ports import LeaseStore
from cni_py.model.errors import BadEnvironmentError
from cni_py.model.node_network import NODE_FILE, segment_gateway
from cni_py.model.result import IPNetwork, Result
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import render_result
from cni_py.store.lease_disk import OsDisk, naming
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore
from cni_py.store.lock import Idle

if TYPE_CHECKING:
    from cni_py.model.node_network import NodeNetwork
    from cni_py.store.lease_warm import WarmLeaseStore

NAME = "cni-py-ipam"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MAX_RESOLV_CONF = 1 << 20


def call(request: Request, *, attached: str = "") -> bytes:
    """What the verb prints. Raises CniPyError.

    The main plugin (`attached`) calls it in its own process, with `dataclasses.replace(request, command="DEL")` for a
    rollback.
    """
    return serve(request, open_store(), attached=attached)


def serve(request: Request, store: LeaseStore, *, attached: str = "") -> bytes:
    """The same over any store."""
    if request.command == "ADD":
        return render_result(lease(request, store, attached=attached), request.cni_version)
    request = _with_ranges(request)
    match request.command:
        case "DEL":
            verbs.delete(request, store)
        case "CHECK":
            verbs.check(request, store)
        case "GC":
            verbs.collect_garbage(request, store)
        case "STATUS":
            verbs.status(request, store)
        case other:
            raise BadEnvironmentError(f"unknown CNI_COMMAND: {other}")
    return b""


def lease(request: Request, store: LeaseStore, *, attached: str) -> Result:
    """What ADD gives, for a caller in this process."""
    return verbs.add(_with_ranges(request), store, read_file, attached=attached)


def _with_ranges(request: Request) -> Request:
    """The request, with this node's networks as its ranges where it names none: one configuration for all nodes."""
    if not os.path.exists(NODE_FILE):  # noqa: PTH110  # what reads it is not even imported
        return request
    given = gojson.get_object(request.config, "ipam")
    runtime = gojson.get_object(request.config, "runtimeConfig")
    if gojson.get(given, "ranges") or gojson.get(given, "subnet") or gojson.get(runtime, "ipRanges"):
        return request
    from cni_py.store.node_file import NodeFile

    known = NodeFile().read()
    ranges = [[_range(one, known)] for one in known.ranges]
    config = {**request.config, "ipam": {**given, "ranges": ranges}}
    return replace(request, config=config, stdin=json.dumps(config).encode())


def _range(cidr: IPNetwork, known: "NodeNetwork") -> dict[str, str]:
    """One of the node's networks as a range. In a segment its pods have the length of the whole network.

    Their gateway is the node, by its own address there, before the first that is given.
    """
    gateway = segment_gateway(cidr, known.networks) if known.segment else None
    if gateway is None:
        return {"subnet": str(cidr)}
    last = cidr.broadcast_address - 1 if cidr.version == 4 else cidr.broadcast_address
    bounds = {"rangeStart": str(gateway.ip + 1), "rangeEnd": str(last)}
    return {"subnet": str(gateway.network), **bounds, "gateway": str(gateway.ip)}


def open_store() -> DiskLeaseStore:
    """The leases of this node in this boot."""
    return DiskLeaseStore(Site(boot_id(), lambda: time.clock_gettime(time.CLOCK_BOOTTIME), OsDisk()))


def open_warm_store(idle: Idle) -> "WarmLeaseStore":
    """The same for a process that lives on, with `idle` around the wait for a lock."""
    from cni_py.store.lease_warm import WarmLeaseStore

    return WarmLeaseStore(Site(boot_id(), lambda: time.clock_gettime(time.CLOCK_BOOTTIME), OsDisk(), idle))


def boot_id() -> str:
    """The kernel's boot ID; empty where /proc is hidden, and then no lease is ever taken for an earlier boot's."""
    try:
        fd = os.open(_BOOT_ID, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """The first MiB of a file, never waiting on a FIFO. Raises IOFailureError in the words of Go's os.Open."""
    with naming(path, "open"):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, _MAX_RESOLV_CONF)
        finally:
            os.close(fd)

"""`cni-py ipam show`: what the IPAM plugin has given to whom, as a table or as JSON."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_py.cmd.ipam import boot_id
from cni_py.ipam.addresses import IPAddress, parse_ip
from cni_py.ipam.config import DATA_DIR
from cni_py.model.errors import IOFailureError
from cni_py.model.lease import SEPARATOR, Lease, Pool
from cni_py.store.lease_disk import OsDisk
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore

_COLUMNS = ("address", "container", "ifname", "owner", "age", "boot")


@dataclass(frozen=True, slots=True)
class Network:
    """One network's leases and its pools as of the last ADD (none if the Go plugin alone was there)."""

    name: str
    pools: tuple[Pool, ...]
    leases: tuple[Lease, ...]


def render(
    data_dir: Path = Path(DATA_DIR),
    network: str | None = None,
    *,
    as_json: bool = False,
    now_s: float | None = None,
    boot: str | None = None,
) -> str:
    """The leases below `data_dir`, of one network or of all, ending in a newline.

    `now_s` is CLOCK_BOOTTIME and `boot` the boot ID, this moment's if left out. Raises IOFailureError.
    """
    moment = time.clock_gettime(time.CLOCK_BOOTTIME) if now_s is None else now_s
    this_boot = boot_id() if boot is None else boot
    networks = _read(data_dir, network, Site(this_boot, lambda: moment, OsDisk()))
    objects = [_describe(one, this_boot, moment) for one in networks]
    if as_json:
        return json.dumps({"dataDir": str(data_dir), "networks": objects}, indent=2) + "\n"
    return "\n".join(_table(one) for one in objects) or f"no leases in {data_dir}\n"


def _read(data_dir: Path, network: str | None, site: Site) -> list[Network]:
    try:
        entries = os.scandir(data_dir)
    except FileNotFoundError:
        entries = None
    except OSError as error:
        raise IOFailureError(f"open {data_dir}: {error.strerror}", "run it as root, or name the dataDir") from error
    names = sorted(one.name for one in entries or () if one.is_dir() and not one.name.startswith("."))
    if network is not None:
        if network not in names:
            raise IOFailureError(f"no network {network!r} in {data_dir}", f"there are: {', '.join(names) or 'none'}")
        names = [network]
    store = DiskLeaseStore(site)
    networks = []
    for name in names:
        with store.look(str(data_dir), name) as view:
            leases = sorted((*view.leases(), *view.dead()), key=lambda lease: _order(lease.name))
            networks.append(Network(name, view.pools(), tuple(leases)))
    return networks


def _describe(network: Network, boot: str, now_s: float) -> dict[str, Any]:
    addresses = [address for lease in network.leases if (address := parse_ip(lease.name))]
    pools = []
    for pool in network.pools:
        used = sum(_within(address, pool) for address in addresses)
        pools.append({"ranges": pool.ranges, "size": pool.size, "used": used, "free": max(0, pool.size - used)})
    leases = [_describe_lease(lease, boot, now_s) for lease in network.leases]
    return {"network": network.name, "pools": pools, "leases": leases}


def _describe_lease(lease: Lease, boot: str, now_s: float) -> dict[str, Any]:
    container, _, ifname = lease.content.partition(SEPARATOR)
    state = "unknown" if not lease.boot or not boot else "current" if lease.boot == boot else "stale"
    known = lease.created_s is not None and state == "current"
    return {
        "address": lease.name,
        "container": container,
        "ifname": ifname,
        "owner": lease.owner,
        "age_s": max(0, int(now_s - lease.created_s)) if known and lease.created_s is not None else None,
        "boot": state,
    }


def _table(network: dict[str, Any]) -> str:
    head = [f"network {network['network']}: {len(network['leases'])} leases"]
    head += [f"  pool {one['ranges']}: {one['used']} used, {one['free']} free" for one in network["pools"]]
    rows = [tuple(column.upper() for column in _COLUMNS)]
    rows += [
        (one["address"], one["container"], one["ifname"] or "-", one["owner"] or "-", _age(one["age_s"]), one["boot"])
        for one in network["leases"]
    ]
    cells = [tuple(_printable(str(cell)) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join((*head, *(lines if network["leases"] else ()))) + "\n"


def _age(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _printable(text: str) -> str:
    # Contents are anybody's bytes: no control character reaches the terminal.
    return "".join(char if char.isprintable() else "?" for char in text)[:80]


def _order(name: str) -> tuple[int, int]:
    address = parse_ip(name)
    return (address.version, int(address)) if address else (0, 0)


def _within(address: IPAddress, pool: Pool) -> bool:
    for span in pool.ranges.split(","):
        low, high = (parse_ip(end) for end in (span.partition("-")[0], span.partition("-")[2]))
        if low and high and low.version == address.version and int(low) <= int(address) <= int(high):
            return True
    return False

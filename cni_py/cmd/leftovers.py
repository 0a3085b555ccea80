"""What is on a node of cni-py besides what was installed: devices, nftables, state, leases, the socket. Found, removed.

Directories may be named in a configuration and shared with others, so files go by the names that we give them, each
for itself, and a directory goes if it is empty then.
"""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cni_py.cmd import overlay_leftovers, policy_leftovers
from cni_py.cni.firewall import LAYOUTS
from cni_py.ipam.config import DATA_DIR
from cni_py.kernel import nft, rtnl
from cni_py.kernel.inventory import read_links
from cni_py.kernel.netlink import NetlinkError
from cni_py.kernel.node import open_route_socket
from cni_py.model.attachment import HOST_PREFIX, IFB_PREFIX, STATE_DIR, Attachment
from cni_py.model.errors import MissingFeatureError
from cni_py.model.nft import Change, DestroyTable
from cni_py.spec import frame, gojson
from cni_py.store.attachments import state_directories
from cni_py.store.lease_view import number_of

_RUN_DIR = Path(frame.SOCKET).parent

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where state and leases are on this node."""

    state_dirs: tuple[str, ...]
    data_dirs: tuple[str, ...]


def places(attachments: Iterable[Attachment]) -> Places:
    """The usual ones, and those that the attachments' configurations name. Ask before anything is removed."""
    ipams = (gojson.get_object(json.loads(one.config), "ipam") for one in attachments)
    named = (gojson.get_string(one, "dataDir") for one in ipams)
    found = (DATA_DIR, *(os.path.normpath(path) for path in named if path.startswith("/")))
    return Places(tuple(state_directories()), tuple(dict.fromkeys(found)))


def sweep(where: Places, *, force: bool, say: Say) -> None:
    """What nothing needs any more is gone; with `force` also devices and tables that belong to no record."""
    if force:
        _remove_links(say)
    _remove_tables(say, force=force)
    serves = agent_serves()
    if not serves:  # it would put all back
        overlay_leftovers.remove(say)
        policy_leftovers.remove(say)
        for path in _matching(Path(STATE_DIR), "nodes", ".nodes.new"):
            _remove(path, say)
    for path in (*_lease_files(where), *_state_files(where)):
        _remove(path, say)
    if not serves:
        for path in _run_files():
            _remove(path, say)


def look(where: Places) -> list[str]:
    """All that is there, in words."""
    found = [f"device {name}" for name in _links()]
    found += [f"nftables table {table}" for table in _tables()]
    found += overlay_leftovers.look()
    found += policy_leftovers.look()
    found += [str(path) for path in _matching(Path(STATE_DIR), "nodes")]
    found += [f"{path}/{name}: leased" for path in _networks(where) for name in _leases(path)]
    found += [str(path) for path in _lease_files(where)]
    found += [str(path) for path in (*_state_files(where), *_records(where)) if os.path.lexists(path)]
    if agent_serves():
        found.append(f"{frame.SOCKET}: an agent serves; stop it (systemctl disable --now cni-py) and run this again")
    else:
        found += [str(path) for path in _run_files() if os.path.lexists(path)]
    return found


def agent_serves() -> bool:
    """True if somebody listens on the agent's socket."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(1)
        connection.connect(frame.SOCKET)
        return True
    return False


def _links() -> list[str]:
    with open_route_socket() as route:
        names = [link.name for link in read_links(route).values()]
    return sorted(name for name in names if name.startswith((HOST_PREFIX, IFB_PREFIX)))


def _remove_links(say: Say) -> None:
    with open_route_socket() as route:
        for name in _links():
            with suppress(NetlinkError):  # gone with its peer; what resists is found by `look`
                route.send_batch([rtnl.del_link(name)])
                say(f"removed device {name}")


def _tables() -> list[str]:
    try:
        with closing(nft.connect()) as tables:
            return [one.table.text() for one in LAYOUTS if nft.table_exists(tables, one.table)]
    except MissingFeatureError:
        return []


def _remove_tables(say: Say, *, force: bool) -> None:
    before = _tables()
    if not before:
        return
    with closing(nft.connect()) as tables:
        if force:
            nft.commit(tables, Change((), tuple(DestroyTable(one.table) for one in LAYOUTS)))
        else:
            nft.remove_if_empty(tables, LAYOUTS)
    for gone in set(before) - set(_tables()):
        say(f"removed nftables table {gone}")


def _networks(where: Places) -> Iterator[Path]:
    """Lease directories in which our IPAM plugin was; host-local alone leaves no index beside them."""
    for data_dir in where.data_dirs:
        with suppress(OSError):
            yield from sorted(Path(data_dir, one.name) for one in Path(data_dir, ".cni-py").iterdir())


def _leases(network: Path) -> list[str]:
    try:
        return [name for name in os.listdir(network) if number_of(name, 6 if ":" in name else 4) is not None]  # noqa: PTH208
    except OSError:
        return []


def _lease_files(where: Places) -> Iterator[Path]:
    """What is left of networks without leases, the deepest first."""
    for network in list(_networks(where)):
        if _leases(network):
            continue
        index = network.parent / ".cni-py" / network.name
        yield from _matching(network, "lock", "last_reserved_ip.*")
        yield network
        yield from _matching(index, "held.*", "cool.*", "state", ".*")
        yield index
        if not any(other != index for other in index.parent.iterdir()):
            yield index.parent
            yield network.parent


def _state_files(where: Places) -> Iterator[Path]:
    """What is in state directories besides records, the deepest first."""
    for state_dir in map(Path, reversed(where.state_dirs)):
        attachments, elsewhere = state_dir / "attachments", state_dir / "elsewhere"
        for network in _matching(attachments, "*"):
            yield from _matching(network, ".*.new")
            yield network
        yield attachments
        yield from _matching(elsewhere, "*")
        yield elsewhere
        yield from _matching(state_dir, "lock", "boot", ".*.new")
        if str(state_dir) == STATE_DIR or not _matching(state_dir, "*"):
            yield state_dir


def _records(where: Places) -> Iterator[Path]:
    """Records, and what is in their place: somebody has to make something of them."""
    for state_dir in where.state_dirs:
        yield from _matching(Path(state_dir, "attachments"), "*/*")


def _run_files() -> Iterator[Path]:
    yield from _matching(
        _RUN_DIR, "del/*", "del/.*", "del", "agent.sock", ".agent.sock.*", "node.json", ".node.json.new"
    )
    yield _RUN_DIR


def _matching(directory: Path, *patterns: str) -> list[Path]:
    with suppress(OSError):
        return [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    return []


def _remove(path: Path, say: Say) -> None:
    """It is gone, if it is a file or an empty directory; what is not is found by `look`."""
    try:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    except OSError:
        return
    say(f"removed {path}")

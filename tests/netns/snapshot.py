"""The whole state of a node as one comparable value, read with iproute2 and nft: eyes that share no code with ours."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

# What changes by itself, or says only that something was once here.
_VOLATILE_LINK = {"ifindex", "link_index", "stats", "stats64", "txqlen", "num_tx_queues", "num_rx_queues"}
_FORGIVEN_FILES = re.compile(r"(last_reserved_ip\.\d+|lock|boot)$|/\.cni-py(/|$)")
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def namespace(name: str = "") -> dict[str, Any]:
    """Links, addresses, routes, neighbours' absence, qdiscs and nftables of a namespace, ours or a named one."""
    ip = ("ip", "-n", name) if name else ("ip",)
    inside = ("ip", "netns", "exec", name) if name else ()
    links = json.loads(output(*ip, "-j", "-d", "address", "show"))
    return {
        "links": {link["ifname"]: _stable(link) for link in links},
        "routes": sorted(output(*ip, "-4", "route", "show", "table", "all").splitlines()),
        "routes6": sorted(
            line for line in output(*ip, "-6", "route", "show", "table", "all").splitlines() if _lasts(line)
        ),
        "qdiscs": output(*inside, "tc", "qdisc", "show").splitlines(),
        "nft": output(*inside, "nft", "-s", "list", "ruleset"),
        "sysctls": [output(*inside, "cat", f"/proc/sys/{key}").strip() for key in SYSCTLS],
    }


def _lasts(route: str) -> bool:
    """Link-local routes come a second after their link, when duplicate address detection is through."""
    return "fe80::" not in route and "ff00::/8" not in route


def _stable(link: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in link.items() if key not in _VOLATILE_LINK}
    if "linkinfo" in kept:  # a bridge's timers run
        kept["linkinfo"] = json.loads(re.sub(r'"\w+_timer": [\d.]+,? ?', "", json.dumps(kept["linkinfo"])))
    return {**kept, "addr_info": [one for one in link["addr_info"] if one["scope"] != "link"]}


def files(*roots: str) -> dict[str, str]:
    """{path: content} of all files below the roots that mean something: leases, records."""
    found = sorted(path for root in roots for path in Path(root).rglob("*") if path.is_file())
    return {str(path): path.read_text(errors="replace") for path in found if not _FORGIVEN_FILES.search(str(path))}


def node(*containers: str) -> dict[str, Any]:
    """The node and these containers' namespaces, and what is on disk."""
    spaces = {name: namespace(name) for name in containers}
    return {"host": namespace(), **spaces, "files": files("/var/lib/cni/networks", "/var/lib/cni-py")}


def lines(state: dict[str, Any]) -> list[str]:
    """A state as sorted lines, of which a test shows just those that differ."""
    return json.dumps(state, indent=0, sort_keys=True).splitlines()


def settled(state: dict[str, Any]) -> list[str]:
    """A state as sorted lines without the carrier, which the kernel tells of a moment after a link came or went."""
    for space in state.values():
        for link in space.get("links", {}).values():
            link.pop("operstate", None)
            link["flags"] = sorted(set(link["flags"]) - {"NO-CARRIER", "LOWER_UP"})
            link.get("linkinfo", {}).get("info_slave_data", {}).pop("state", None)
    return [line.replace(" linkdown", "") for line in lines(state)]

"""How the role `overlay` stands: this node, each peer and the way to it, what is not as it should be."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cni_py.model.errors import CniPyError

if TYPE_CHECKING:
    from cni_py.agent.nodes import Nodes
    from cni_py.model.overlay import Node

_MOST = 10_000


def standing(nodes: "Nodes") -> dict[str, Any]:
    """As JSON has it; `peers` are 10,000 at most."""
    from cni_py.overlay.select import offered, pod_mtu, ways

    now = nodes.standing
    found: dict[str, Any] = {
        "joined": now.joined,
        "conditions": nodes.conditions.report(),
        "passes": now.passes,
        "last_pass_ms": now.last_ms,
        "last_whole_pass_ms": now.last_whole_ms,
        "refused": dict(list(now.refused.items())[:_MOST]),
        "peers": [],
    }
    wish = now.wish
    if wish is None:
        return found
    network = nodes.network
    try:
        mtu = pod_mtu(wish.own, network, wish.facts)
        found |= {
            "node": {**_node(wish.own), "backends": list(offered(network, wish.facts))},
            "network": {
                "cluster": network.cluster,
                "cidrs": list(map(str, network.cidrs)),
                "backends": list(network.backends),
            },
            "underlay": {"link": wish.facts.underlay.link, "mtu": wish.facts.underlay.mtu},
            "mtu": mtu.value,
            "mtu_sum": str(mtu),
        }
        for peer in list(wish.peers.values())[:_MOST]:
            told = ways(wish.own, peer, network, wish.facts)
            found["peers"].append(
                {
                    **_node(peer),
                    "ways": [{"cidr": str(w.cidr), "backend": w.backend, "reason": w.reason} for w in told],
                    **nodes.liveness(peer.name),
                }
            )
    except CniPyError as error:
        found["conditions"].append({"name": "status", "text": error.message, "since": 0})
    return found


def _node(node: "Node") -> dict[str, Any]:
    return {
        "name": node.name,
        "cidrs": list(map(str, node.cidrs)),
        "ipv4": str(node.ip4) if node.ip4 else "",
        "ipv6": str(node.ip6) if node.ip6 else "",
        "mac": node.mac,
    }


def lines(status: Mapping[str, Any]) -> list[str]:
    """For a terminal, before the peers' table."""
    node, network = status.get("node"), status.get("network")
    if node is None or network is None:
        head = ["overlay: NOT JOINED"]
    else:
        state = "joined" if status["joined"] else "joined by what was known before, the source has said nothing yet"
        head = [
            f"overlay {network['cluster']}: {state}, {len(status['peers'])} peers, {', '.join(node['backends'])}",
            f"  {node['name']} at {_addresses(node)} on {status['underlay']['link']}, pods {', '.join(node['cidrs'])}",
            f"  MTU of pods: {status['mtu_sum']}",
        ]
    return head + [f"  ! {one['name']}: {one['text']}" for one in status["conditions"]]


def table(peers: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    """The peers."""
    rows: list[Sequence[str]] = [("PEER", "AT", "PODS", "BY", "RTT MS", "LOSS", "PATH MTU", "WHY")]
    for peer in peers:
        rows += [
            (
                peer["name"] if not at else "",
                _addresses(peer) if not at else "",
                way["cidr"],
                way["backend"] or "UNREACHABLE",
                *(_live(peer) if not at else ("", "", "")),
                peer.get("problem") or way["reason"],
            )
            for at, way in enumerate(peer["ways"])
        ]
    return rows


def _live(peer: Mapping[str, Any]) -> tuple[str, str, str]:
    if peer.get("loss") is None:
        return "-", "-", "-"
    rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.2f}"
    return rtt, f"{peer['loss']:.0%}", str(peer["path_mtu"] or "-")


def _addresses(node: Mapping[str, Any]) -> str:
    return ",".join(one for one in (node["ipv4"], node["ipv6"]) if one) or "-"

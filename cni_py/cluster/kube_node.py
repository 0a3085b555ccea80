"""A Node of Kubernetes: what is read of its JSON, and what member of the network it makes."""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from cni_py.cluster.record import checked_name, parse, parse_cidrs
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node, tunnel_mac

ANNOTATION = "cni-py.dev/node"
CONDITION = "NetworkUnavailable"


@dataclass(frozen=True, slots=True)
class KubeNode:
    """All that counts of a Node; equal as long as nothing of it changes.

    `unavailable` is the status of its condition NetworkUnavailable, read of this node only.
    """

    name: str
    uid: str
    since: int
    cidrs: tuple[str, ...]
    record: str | None
    unavailable: str | None = None


class _Annotations(msgspec.Struct):
    record: str | None = msgspec.field(name=ANNOTATION, default=None)


class _Metadata(msgspec.Struct):
    name: str
    uid: str = ""
    created: datetime | None = msgspec.field(name="creationTimestamp", default=None)
    annotations: _Annotations | None = None


class _Spec(msgspec.Struct):
    cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    cidr: str = msgspec.field(name="podCIDR", default="")


class _Object(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Own(msgspec.Struct):
    status: _Status | None = None


_OBJECT, _OWN = msgspec.json.Decoder(_Object), msgspec.json.Decoder(_Own)


def decode(raw: msgspec.Raw, *, own: bool) -> KubeNode:
    """The Node whose JSON is `raw`; `own` for this node's. Raises msgspec.MsgspecError."""
    node = _OBJECT.decode(raw)
    metadata, spec = node.metadata, node.spec or _Spec()
    conditions = (_OWN.decode(raw).status or _Status()).conditions or () if own else ()
    return KubeNode(
        metadata.name,
        metadata.uid,
        int(metadata.created.timestamp()) if metadata.created else 0,
        tuple(spec.cidrs or ([spec.cidr] if spec.cidr else ())),
        metadata.annotations.record if metadata.annotations else None,
        next((one.status for one in conditions if one.type == CONDITION), None),
    )


def member(node: KubeNode, cluster: str, *, own: bool) -> Node | None:
    """The member that a Node is, None if it has not joined yet. Of this node only the pod networks count.

    Raises DecodeError for what is there but not to be believed.
    """
    if not node.cidrs:
        return None
    cidrs = parse_cidrs(list(node.cidrs))
    if own:
        name = checked_name(node.name)
        return Node(name, cidrs, tunnel_mac(cluster, name), uid=node.uid, since=node.since)
    if node.record is None:
        return None
    try:
        parsed = parse(node.record, node.name, cluster, cidrs)
    except DecodeError as error:
        raise DecodeError(f"its annotation {ANNOTATION}: {error.message}") from None
    if parsed.ip4 is None and parsed.ip6 is None:
        return None
    return replace(parsed, uid=node.uid, since=node.since)

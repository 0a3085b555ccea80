"""A Node of Kubernetes: what is read of its JSON, and what member of the network it makes."""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from cni_py.cluster import flannel
from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.record import checked_name, parse, parse_cidrs
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node, tunnel_mac

ANNOTATION = "cni-py.dev/node"
CONDITION = "NetworkUnavailable"


@dataclass(frozen=True, slots=True)
class KubeNode:
    """All that counts of a Node; equal as long as nothing of it changes.

    `unavailable` is the status of its condition NetworkUnavailable, read of this node only; `flannel` are flannel's
    annotations.
    """

    name: str
    uid: str
    since: int
    cidrs: tuple[str, ...]
    record: str | None
    unavailable: str | None = None
    flannel: tuple[tuple[str, str], ...] = ()

    def told(self) -> dict[str, str]:
        """The annotations that are read of it."""
        own = {ANNOTATION: self.record} if self.record is not None else {}
        return {**own, **dict(self.flannel)}


def _annotations() -> type[msgspec.Struct]:
    """A struct with a field for each annotation that is read: what is another is dropped before it is decoded."""
    fields = [(f"a{at}", str | None, msgspec.field(name=key, default=None)) for at, key in enumerate(_READ)]
    return msgspec.defstruct("_Annotations", fields)


_READ = (ANNOTATION, *flannel.KEYS)
_Annotations = _annotations()


class _Metadata(msgspec.Struct):
    name: str
    uid: str = ""
    created: datetime | None = msgspec.field(name="creationTimestamp", default=None)
    annotations: _Annotations | None = None  # type: ignore[valid-type]  # made above


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
    told = _told(metadata.annotations)
    conditions = (_OWN.decode(raw).status or _Status()).conditions or () if own else ()
    return KubeNode(
        metadata.name,
        metadata.uid,
        int(metadata.created.timestamp()) if metadata.created else 0,
        tuple(spec.cidrs or ([spec.cidr] if spec.cidr else ())),
        told.get(ANNOTATION),
        next((one.status for one in conditions if one.type == CONDITION), None),
        tuple((key, value) for key, value in told.items() if key != ANNOTATION),
    )


def _told(annotations: msgspec.Struct | None) -> dict[str, str]:
    values = () if annotations is None else msgspec.structs.astuple(annotations)
    return {key: value for key, value in zip(_READ, values, strict=False) if value is not None}


def member(node: KubeNode, access: KubeAccess) -> Node | None:
    """The member that a Node is, None if it has not joined yet. Of this node only the pod networks count.

    Raises DecodeError for what is there but not to be believed.
    """
    if not node.cidrs:
        return None
    cidrs = parse_cidrs(list(node.cidrs))
    if node.name == access.node:
        name = checked_name(node.name)
        return Node(name, cidrs, tunnel_mac(access.cluster, name), uid=node.uid, since=node.since)
    if node.record is None and access.flannel is None:
        return None
    try:
        parsed = (
            parse(node.record, node.name, access.cluster, cidrs)
            if node.record is not None
            else flannel.node_from_annotations(node.name, dict(node.flannel), cidrs, access.flannel_port)
        )
    except DecodeError as error:
        where = f"its annotation {ANNOTATION}" if node.record is not None else "flannel's annotations"
        raise DecodeError(f"{where}: {error.message}") from None
    if parsed is None:
        return None
    if parsed.ip4 is None and parsed.ip6 is None:
        return None
    return replace(parsed, uid=node.uid, since=node.since)

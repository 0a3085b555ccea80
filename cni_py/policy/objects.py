"""Objects of the Kubernetes API as values, from plain documents that JSON or YAML decode to. They may be hostile.

A source may leave out of a document what is not read here; each function says what is. What is missing means what it
means to the API server after its defaulting, so documents may come from files as well. A DecodeError says that nobody
knows which object it is, or whose; anything less is in `flaws`, and left out so that it allows less.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address

from cni_py.model.errors import DecodeError
from cni_py.model.policy import (
    ADDRESSES_ANNOTATION,
    DIRECTIONS,
    Address,
    Direction,
    NamedPort,
    Namespace,
    Pod,
    Policy,
    Rule,
)
from cni_py.policy.plain import Document, Flaws, listed, mapping, shown, text, unknown
from cni_py.policy.rules import port_name, port_number, protocol, rules
from cni_py.policy.selectors import labels, selector

AUDIT = "cni-py.dev/audit"
NAME_LABEL = "kubernetes.io/metadata.name"
DEFAULT_NAMESPACE = "default"
_MOST_ADDRESSES = 16
_NAME = re.compile(r"[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,251}[a-zA-Z0-9])?")
_TYPES: dict[Direction, str] = {"ingress": "Ingress", "egress": "Egress"}
_FINISHED = ("Succeeded", "Failed")


def policy(document: object) -> Policy:
    """A NetworkPolicy (networking.k8s.io/v1). Read: metadata.namespace, name, annotations[AUDIT]; spec.

    Raises DecodeError if metadata or spec.podSelector are not understood.
    """
    root = mapping(document, "the policy")
    metadata = _metadata(root)
    namespace = _namespace(metadata)
    spec = mapping(root.get("spec"), "spec")
    flaws = Flaws()
    fields = unknown(spec, ("podSelector", "policyTypes", *DIRECTIONS))
    if fields:
        flaws.add(f"spec: the field {fields} is not known")
    ingress, egress = _directions(spec, namespace, flaws)
    return Policy(
        namespace,
        _name(metadata),
        selector(spec.get("podSelector"), "spec.podSelector"),
        ingress,
        egress,
        _audit(metadata, flaws),
        flaws.told(),
    )


def namespace(document: object) -> Namespace:
    """A Namespace (v1). Read: metadata.name, labels, annotations[AUDIT]. Raises DecodeError.

    It has the label NAME_LABEL, whatever the document says of it.
    """
    metadata = _metadata(mapping(document, "the namespace"))
    name = _name(metadata)
    given = labels(metadata.get("labels"), "metadata.labels")
    return Namespace(name, labels({**given, NAME_LABEL: name}, "metadata.labels"), _audit(metadata, Flaws()))


def pod(document: object) -> Pod:
    """A Pod (v1). Raises DecodeError if its metadata, its phase or spec.hostNetwork are not understood.

    Read: metadata.namespace, name, uid, creationTimestamp, labels, annotations[ADDRESSES_ANNOTATION]; spec.nodeName,
    hostNetwork, containers and initContainers with ports[].name, protocol, containerPort; status.phase, podIPs[].ip,
    podIP, hostIPs[].ip, hostIP.
    Without a uid its key is one. The annotation counts until the status has addresses: the kubelet reports them late.
    """
    root = mapping(document, "the pod")
    metadata = _metadata(root)
    name, space = _name(metadata), _namespace(metadata)
    spec, status = mapping(root.get("spec"), "spec"), mapping(root.get("status"), "status")
    host_network = spec.get("hostNetwork") or False
    if not isinstance(host_network, bool):
        raise DecodeError(f"spec.hostNetwork: {shown(host_network)} is neither true nor false")
    finished = _optional(status, "phase", "status.phase") in _FINISHED
    flaws = Flaws()
    addresses, announced = ((), False) if host_network or finished else _addresses(metadata, status, flaws)
    return Pod(
        _optional(metadata, "uid", "metadata.uid") or f"{space}/{name}",
        space,
        name,
        labels(metadata.get("labels"), "metadata.labels"),
        addresses,
        _ports(spec, flaws),
        sys.intern(_optional(spec, "nodeName", "spec.nodeName")),
        _optional(metadata, "creationTimestamp", "metadata.creationTimestamp"),
        host_network,
        finished,
        announced,
        flaws.told(),
    )


def _metadata(root: Document) -> Document:
    return mapping(root.get("metadata"), "metadata")


def _name(metadata: Document) -> str:
    name = metadata.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DecodeError(f"metadata.name: {shown(name)} is no name")
    return name


def _namespace(metadata: Document) -> str:
    name = metadata.get("namespace")
    if name is None or name == "":
        return DEFAULT_NAMESPACE
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DecodeError(f"metadata.namespace: {shown(name)} is no name")
    return sys.intern(name)


def _optional(document: Document, key: str, where: str) -> str:
    value = document.get(key)
    return "" if value is None else text(value, where)


def _audit(metadata: Document, flaws: Flaws) -> bool:
    """True for "true" alone: what is not understood leaves the policy in force."""
    try:
        value = mapping(metadata.get("annotations"), "metadata.annotations").get(AUDIT)
    except DecodeError as error:
        flaws.add(error.message)
        return False
    if value not in (None, "true", "false"):
        flaws.add(f'metadata.annotations: {AUDIT} is "true" or "false", not {shown(value)}')
    return value == "true"


def _directions(spec: Document, namespace: str, flaws: Flaws) -> Iterator[tuple[Rule, ...] | None]:
    """The rules for each of DIRECTIONS, None where the policy does not restrict it.

    A list of types that is not understood may name any: what it does not name for certain is closed. It has no rules
    then, as they would open it for other policies' pods if it was not meant.
    """
    types, certain = spec.get("policyTypes"), True
    if types in (None, []):
        named = {"Ingress"} if spec.get("egress") in (None, []) else {"Ingress", "Egress"}
    else:
        entries = types if isinstance(types, list) else []
        named = {one for one in entries if isinstance(one, str)} & set(_TYPES.values())
        wrong = [one for one in entries if one not in _TYPES.values()] if entries else [types]
        certain = not wrong
        if wrong:
            flaws.add(f"spec.policyTypes: {shown(wrong[0])} is none of {', '.join(_TYPES.values())}; all are isolated")
    for direction in DIRECTIONS:
        if _TYPES[direction] in named:
            yield rules(spec.get(direction), f"spec.{direction}", direction, namespace, flaws)
        else:
            yield None if certain else ()


def _addresses(metadata: Document, status: Document, flaws: Flaws) -> tuple[tuple[Address, ...], bool]:
    """Of its own network namespace, in the status' order: one that is the node's is not. And if they are announced."""
    told = list(_ips(status, "podIPs", "podIP", flaws))
    announced = not told
    if announced:
        told = list(_announced(metadata, flaws))
    nodes = set(_ips(status, "hostIPs", "hostIP", flaws)) if told else set()
    if len(told) > _MOST_ADDRESSES:
        flaws.add(f"it has {len(told)} addresses: those after {_MOST_ADDRESSES} do not count")
    addresses = tuple(one for one in dict.fromkeys(told[:_MOST_ADDRESSES]) if one not in nodes)
    return addresses, announced and bool(addresses)


def _ips(status: Document, many: str, one: str, flaws: Flaws) -> Iterator[Address]:
    """Of `many`, a list of objects, and of `one`, which repeats the first of them."""
    try:
        values = [mapping(each, f"status.{many}").get("ip") for each in listed(status.get(many), f"status.{many}")]
    except DecodeError as error:
        flaws.add(error.message)
        values = []
    yield from _read_addresses([*values, status.get(one)], f"status.{many}", flaws)


def _announced(metadata: Document, flaws: Flaws) -> Iterator[Address]:
    annotations = metadata.get("annotations")
    value = annotations.get(ADDRESSES_ANNOTATION) if isinstance(annotations, Mapping) else None
    if isinstance(value, str):
        yield from _read_addresses(
            value.split(",", _MOST_ADDRESSES), f"metadata.annotations: {ADDRESSES_ANNOTATION}", flaws
        )


def _read_addresses(values: list[object] | list[str], where: str, flaws: Flaws) -> Iterator[Address]:
    for value in values:
        if value is None or value == "":
            continue
        try:
            address = ip_address(value.strip()) if isinstance(value, str) and "%" not in value else None
        except ValueError:
            address = None
        if address is None or not _is_a_pods(address):
            flaws.add(f"{where}: {shown(value)} is no address of a pod")
        else:
            yield address


def _is_a_pods(address: Address) -> bool:
    """True if a pod can have it: in a set of pods another one would stand for what is no pod."""
    mapped = getattr(address, "ipv4_mapped", None)
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or mapped)


def _ports(spec: Document, flaws: Flaws) -> tuple[NamedPort, ...]:
    """Those with names, of all containers: two that have the same name both count."""
    found = set[NamedPort]()
    for field in ("initContainers", "containers"):
        where = f"spec.{field}"
        try:
            for container in listed(spec.get(field), where):
                for port in listed(mapping(container, where).get("ports"), f"{where}.ports"):
                    found.update(_named(mapping(port, f"{where}.ports"), f"{where}.ports", flaws))
        except DecodeError as error:
            flaws.add(error.message)
    return _shared(tuple(sorted(found)))


def _named(port: Document, where: str, flaws: Flaws) -> Iterator[NamedPort]:
    if port.get("name") in (None, ""):
        return
    try:
        yield NamedPort(
            sys.intern(port_name(port.get("name"), f"{where}.name")),
            protocol(port.get("protocol"), f"{where}.protocol"),
            port_number(port.get("containerPort"), f"{where}.containerPort"),
        )
    except DecodeError as error:
        flaws.add(error.message)


@lru_cache(1024)  # as labels: one tuple for all pods of a kind
def _shared(ports: tuple[NamedPort, ...]) -> tuple[NamedPort, ...]:
    return ports

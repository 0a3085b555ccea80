"""The verdict over many flows at once, asked of the index: what an established connection is judged by."""

from cni_py.model.policy import Address, Direction, Flow, NamedPort, Pods, Policy, Port, Rule
from cni_py.policy.index import Index


def denied(index: Index, flow: Flow, subjects: frozenset[Address]) -> bool:
    """True if a policy of one of the `subjects`, the pods for which this node decides, does not let the flow pass.

    What is only audited passes. A pod may always talk to itself.
    """
    if flow.source == flow.destination:
        return False
    ends: tuple[tuple[Direction, Address], ...] = (("egress", flow.source), ("ingress", flow.destination))
    for direction, address in ends:
        key = index.owner(address) if address in subjects else None
        if key is None:
            continue
        policies, audit = index.policies_of(key, direction)
        if policies and not audit and not any(_allows(index, one, direction, flow) for one in policies):
            return True
    return False


def _allows(index: Index, policy: Policy, direction: Direction, flow: Flow) -> bool:
    return any(_matches(index, rule, direction, flow) for rule in policy.rules(direction) or ())


def _matches(index: Index, rule: Rule, direction: Direction, flow: Flow) -> bool:
    peer = index.owner(flow.source if direction == "ingress" else flow.destination)
    address = flow.source if direction == "ingress" else flow.destination
    if rule.peers is None:
        return _goes_to(index, rule, flow, names=True)
    for one in rule.peers:
        if isinstance(one, Pods):
            if peer is not None and index.selects(one, peer) and _goes_to(index, rule, flow, names=True):
                return True
        elif address in one and _goes_to(index, rule, flow, names=direction == "ingress"):
            return True
    return False


def _goes_to(index: Index, rule: Rule, flow: Flow, *, names: bool) -> bool:
    """True if the rule has the flow's port. `names`: also by a name that the destination gives it."""
    return rule.ports is None or any(_is(index, port, flow, names=names) for port in rule.ports)


def _is(index: Index, port: Port, flow: Flow, *, names: bool) -> bool:
    if port.protocol != flow.protocol:
        return False
    if not port.name:
        return port.first <= flow.port <= port.last
    owner = index.owner(flow.destination) if names else None
    return owner is not None and NamedPort(port.name, flow.protocol, flow.port) in index.member(owner).ports

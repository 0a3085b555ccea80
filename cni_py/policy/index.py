"""Which pods each selector selects and which policies each pod has, kept up to date change by change.

Never are all pods held against all selectors. A selector with a term `key in (values)` is filed under each of these
labels, so that a pod is held against those filed under its own labels, and against the few that have no such term.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cni_py.model.policy import (
    DIRECTIONS,
    Address,
    Changes,
    Direction,
    NamedPort,
    Namespace,
    Pod,
    Pods,
    Policy,
    Port,
    Selector,
)
from cni_py.policy.owners import Owners

NAME_LABEL = "kubernetes.io/metadata.name"
# Where a selector is filed: (namespace, "" for any; label, "" for none; its value).
_Drawer = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """What of a pod goes into sets: the addresses that it owns, and its named ports."""

    addresses: tuple[Address, ...] = ()
    ports: tuple[NamedPort, ...] = ()


# One pod's part in a set before and after; None where it has none.
Move = tuple[Member | None, Member | None]


@dataclass(frozen=True, slots=True)
class Delta:
    """What a change did: to the members of selectors, by pod, and which pods' policies or addresses may be others."""

    moves: dict[Pods, dict[str, Move]] = field(default_factory=dict)
    pods: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Scope:
    """A selector of namespaces, and those it selects."""

    users: int = 0
    names: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Selected:
    """A selector of pods in use, and those it selects. `subjects`: the policies that it makes apply to them."""

    users: int = 0
    members: set[str] = field(default_factory=set)
    subjects: set[str] = field(default_factory=set)


class Index:
    """All objects of the cluster. Keys of pods and policies are NAMESPACE/NAME."""

    def __init__(self) -> None:
        self._owners = Owners()
        self.pods, self.attached = self._owners.pods, self._owners.attached  # to be read only
        self.namespaces: dict[str, Namespace] = {}
        self.policies: dict[str, Policy] = {}
        self._in_namespace: dict[str, set[str]] = {}
        self._scopes: dict[Selector, _Scope] = {}
        self._selected: dict[Pods, _Selected] = {}
        self._drawers: dict[_Drawer, set[Pods]] = {}
        self._member: dict[str, Member] = {}
        self._selectors_of: dict[str, frozenset[Pods]] = {}

    def apply(self, changes: Changes, attached: Mapping[str, tuple[Address, ...] | None] | None = None) -> Delta:
        """The objects are as `changes` says, and what is attached to this node as `attached` does (None: no more)."""
        delta, doubtful, new = Delta(), set[str](), set[Pods]()
        for name, namespace in changes.namespaces.items():
            self._put_namespace(name, namespace, delta, doubtful)
        self._put_policies(changes.policies, delta, new)
        for key, pod in changes.pods.items():
            doubtful |= self._owners.put(key, pod)
        for key, addresses in (attached or {}).items():
            doubtful |= self._owners.attach(key, addresses)
        for key in doubtful:
            self._place(key, delta, new)
        return delta

    def member(self, key: str) -> Member:
        """What of a pod is in the sets of its selectors."""
        return self._member.get(key, Member())

    def members(self, pods: Pods) -> Iterator[Member]:
        """Those of a selector that some policy has."""
        return (self._member[key] for key in self._selected[pods].members)

    def selected(self, policy: Policy) -> frozenset[str]:
        """The pods that the policy, one of `policies`, applies to."""
        return frozenset(self._selected[subject(policy)].members)

    def selects(self, pods: Pods, key: str) -> bool:
        """True if a selector that some policy has selects the pod."""
        return pods in self._selectors_of.get(key, ())

    def owner(self, address: Address) -> str | None:
        """The pod that has the address."""
        return self._owners.owner(address)

    def pod(self, key: str) -> Pod | None:
        """The pod; one that is attached but not told of yet has no labels."""
        return self._owners.pod(key)

    def policies_of(self, key: str, direction: Direction) -> tuple[tuple[Policy, ...], bool]:
        """The policies that restrict a pod in that direction, by their names; and if they are only to be audited."""
        found = [
            self.policies[name]
            for selector in self._selectors_of.get(key, ())
            for name in self._selected[selector].subjects
            if self.policies[name].rules(direction) is not None
        ]
        enforced = [one for one in found if not self.is_audited(one)]
        return tuple(sorted(enforced or found, key=lambda one: one.key)), not enforced and bool(found)

    def is_audited(self, policy: Policy) -> bool:
        """True if the policy, or its whole namespace, is only audited."""
        namespace = self.namespaces.get(policy.namespace)
        return policy.audit or (namespace is not None and namespace.audit)

    def _put_namespace(self, name: str, namespace: Namespace | None, delta: Delta, doubtful: set[str]) -> None:
        before = self._labels(name)
        audit = self.namespaces[name].audit if name in self.namespaces else False
        if namespace is None:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = namespace
        after = self._labels(name)
        if before != after:
            for selector, scope in self._scopes.items():
                (scope.names.add if selector.matches(after) else scope.names.discard)(name)
            doubtful |= self._in_namespace.get(name, set())
        if (namespace is not None and namespace.audit) != audit:
            delta.pods.update(self._in_namespace.get(name, set()))

    def _labels(self, name: str) -> Mapping[str, str]:
        """A namespace that is not told of yet has the label that each has."""
        namespace = self.namespaces.get(name)
        return namespace.labels if namespace is not None else {NAME_LABEL: name}

    def _put_policies(self, policies: Mapping[str, Policy | None], delta: Delta, new: set[Pods]) -> None:
        """First all that is needed, then what is not any more: a selector that is in both stays as it is."""
        before = {key: self.policies[key] for key in policies if key in self.policies}
        for policy in policies.values():
            for selector in selectors(policy) if policy is not None else ():
                self._use(selector, new)
        for key, old in before.items():
            selected = self._selected[subject(old)]
            delta.pods.update(selected.members)
            selected.subjects.discard(key)
            for selector in selectors(old):
                self._disuse(selector)
            del self.policies[key]
        for key, policy in policies.items():
            if policy is not None:
                selected = self._selected[subject(policy)]
                delta.pods.update(selected.members)
                selected.subjects.add(key)
                self.policies[key] = policy

    def _use(self, pods: Pods, new: set[Pods]) -> None:
        selected = self._selected.get(pods)
        if selected is not None:
            selected.users += 1
            return
        new.add(pods)
        self._selected[pods] = selected = _Selected(1)
        for drawer in _drawers(pods):
            self._drawers.setdefault(drawer, set()).add(pods)
        names: Iterable[str] = (pods.namespaces,) if isinstance(pods.namespaces, str) else self._scope(pods.namespaces)
        for name in names:
            for key in self._in_namespace.get(name, ()):
                pod = self.pod(key)
                if pod is not None and pods.pods.matches(pod.labels):
                    selected.members.add(key)
                    self._selectors_of[key] |= {pods}

    def _scope(self, namespaces: Selector) -> set[str]:
        scope = self._scopes.get(namespaces)
        if scope is None:
            scope = self._scopes[namespaces] = _Scope()
            known = self._in_namespace.keys() | self.namespaces.keys()
            scope.names = {name for name in known if namespaces.matches(self._labels(name))}
        scope.users += 1
        return scope.names

    def _disuse(self, pods: Pods) -> None:
        selected = self._selected[pods]
        selected.users -= 1
        if selected.users:
            return
        for key in selected.members:
            self._selectors_of[key] -= {pods}
        del self._selected[pods]
        for drawer in _drawers(pods):
            self._drawers[drawer].discard(pods)
            if not self._drawers[drawer]:
                del self._drawers[drawer]
        if isinstance(pods.namespaces, Selector):
            scope = self._scopes[pods.namespaces]
            scope.users -= 1
            if not scope.users:
                del self._scopes[pods.namespaces]

    def _place(self, key: str, delta: Delta, new: set[Pods]) -> None:
        """The pod is a member of what selects it now, with what it has now."""
        pod, before = self.pod(key), self._member.get(key)
        after, selectors_after = None, frozenset[Pods]()
        # one whose network is the node's is nobody's peer or subject: its address is the node's
        if pod is not None and not pod.host_network:
            after, selectors_after = (
                Member(self._owners.owned(key), pod.ports),
                _shared(frozenset(self._selecting(pod))),
            )
        selectors_before = self._selectors_of.get(key, frozenset())
        if after is None:
            self._forget(key)
        else:
            self._member[key], self._selectors_of[key] = after, selectors_after
            self._in_namespace.setdefault(key.partition("/")[0], set()).add(key)
        if (before, selectors_before) == (after, selectors_after):
            return
        delta.pods.add(key)
        for selector in selectors_before | selectors_after:
            was, is_ = selector in selectors_before, selector in selectors_after
            if was != is_:
                (self._selected[selector].members.add if is_ else self._selected[selector].members.discard)(key)
            move = before if was else None, after if is_ else None
            if move[0] != move[1] and selector not in new:
                delta.moves.setdefault(selector, {})[key] = move

    def _forget(self, key: str) -> None:
        self._member.pop(key, None)
        self._selectors_of.pop(key, None)
        namespace = key.partition("/")[0]
        if key in self._in_namespace.get(namespace, ()):
            self._in_namespace[namespace].discard(key)
            if not self._in_namespace[namespace]:
                del self._in_namespace[namespace]

    def _selecting(self, pod: Pod) -> Iterator[Pods]:
        """The selectors that select the pod."""
        for namespace in (pod.namespace, ""):
            drawers = [(namespace, "", ""), *((namespace, key, value) for key, value in pod.labels.items())]
            for drawer in drawers:
                for pods in self._drawers.get(drawer, ()):
                    if self._covers(pods.namespaces, pod.namespace) and pods.pods.matches(pod.labels):
                        yield pods

    def _covers(self, namespaces: str | Selector, name: str) -> bool:
        if isinstance(namespaces, str):
            return namespaces == name
        scope = self._scopes[namespaces]
        if name not in scope.names and name not in self.namespaces and namespaces.matches(self._labels(name)):
            scope.names.add(name)  # one that nobody has told of, but a pod is in
        return name in scope.names


@lru_cache(4096)  # as labels: one for all pods of a kind
def _shared(found: frozenset[Pods]) -> frozenset[Pods]:
    return found


def subject(policy: Policy) -> Pods:
    """The pods that a policy applies to."""
    return Pods(policy.namespace, policy.pods)


def selectors(policy: Policy) -> set[Pods]:
    """All selectors of pods whose members the rules of a policy are made of."""
    found = {subject(policy)}
    for direction in DIRECTIONS:
        for rule in policy.rules(direction) or ():
            found |= {peer for peer in rule.peers or () if isinstance(peer, Pods)}
            if direction == "egress" and rule.peers is None and has_names(rule.ports):
                found.add(EVERY_POD)
    return found


def has_names(ports: tuple[Port, ...] | None) -> bool:
    """True if there is a named port among them."""
    return any(one.name for one in ports or ())


# Every pod of the cluster: where a named port leads if a rule names no peers.
EVERY_POD = Pods(Selector())


def _drawers(pods: Pods) -> tuple[_Drawer, ...]:
    namespaces = (pods.namespaces,) if isinstance(pods.namespaces, str) else _named(pods.namespaces)
    for requirement in pods.pods.requirements:
        if requirement.operator == "In":
            return tuple((one, requirement.key, value) for one in namespaces for value in requirement.values)
    return tuple((one, "", "") for one in namespaces)


def _named(namespaces: Selector) -> tuple[str, ...]:
    """The namespaces that a selector of them allows by their names; "" for any if it does not say."""
    for requirement in namespaces.requirements:
        if requirement.key == NAME_LABEL and requirement.operator == "In":
            return requirement.values
    return ("",)

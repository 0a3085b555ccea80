"""Which pod has which address: claims by statuses, announcements and attachments, and who of those that claim has it.

An address has one owner: the pod that is attached to this node with it, else one whose status has it, else one that
announced it; among equals the pod created last, as a finished pod's address may be another's before the API says so.
"""

from cni_py.model.policy import Address, Pod


class Owners:
    """All pods by NAMESPACE/NAME, and what is `attached` to this node of them."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.attached: dict[str, tuple[Address, ...]] = {}
        self._claims: dict[Address, set[str]] = {}

    def owner(self, address: Address) -> str | None:
        """The pod that has the address."""
        claims = self._claims.get(address)
        if not claims:
            return None
        if len(claims) == 1:
            return next(iter(claims))
        return max(claims, key=lambda key: (*self._title(key, address), *self._age(key)))

    def pod(self, key: str) -> Pod | None:
        """The pod; one that is attached but not told of yet has no labels."""
        pod = self.pods.get(key)
        if pod is None and key in self.attached:
            namespace, _, name = key.partition("/")
            return Pod("", namespace, name, {})
        return pod

    def owned(self, key: str) -> tuple[Address, ...]:
        """The addresses that the pod has."""
        return tuple(one for one in self._claimed(key) if self.owner(one) == key)

    def put(self, key: str, pod: Pod | None) -> set[str]:
        """The pods about which something may have changed by that: it, and others that claim its addresses."""
        before = self._claimed(key)
        if pod is None:
            self.pods.pop(key, None)
        else:
            self.pods[key] = pod
        return self._reclaim(key, before)

    def attach(self, key: str, addresses: tuple[Address, ...] | None) -> set[str]:
        """The same of what is attached of a pod, None for nothing any more."""
        before = self._claimed(key)
        if addresses is None:
            self.attached.pop(key, None)
        else:
            self.attached[key] = addresses
        return self._reclaim(key, before)

    def _claimed(self, key: str) -> tuple[Address, ...]:
        pod = self.pods.get(key)
        if pod is not None and pod.host_network:
            return ()
        return tuple(dict.fromkeys((*(pod.addresses if pod is not None else ()), *self.attached.get(key, ()))))

    def _reclaim(self, key: str, before: tuple[Address, ...]) -> set[str]:
        after = self._claimed(key)
        doubtful = {key}
        for address in before:
            doubtful |= self._claims[address]
            if address not in after:
                self._claims[address].discard(key)
                if not self._claims[address]:
                    del self._claims[address]
        for address in after:
            claims = self._claims.setdefault(address, set())
            claims.add(key)
            doubtful |= claims
        return doubtful

    def _title(self, key: str, address: Address) -> tuple[bool, bool]:
        """How good a claim is: by this node's own knowledge, by a status, which kubelets alone write, by nothing more.

        Whoever may create pods may write annotations, and would get another pod's place in all sets by a false one.
        """
        pod = self.pods.get(key)
        by_status = pod is not None and not pod.announced and address in pod.addresses
        return address in self.attached.get(key, ()), by_status

    def _age(self, key: str) -> tuple[str, str, str]:
        pod = self.pods.get(key)
        return (pod.created, pod.uid, key) if pod is not None else ("", "", key)

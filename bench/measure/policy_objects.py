"""A cluster made up to be measured: pods, namespaces and policies as documents of the API, and as values.

There are twenty apps of two tiers; each namespace has pods of all of them. A policy applies to one app of a namespace:
it lets in two apps of the namespace and one of another on a port, a named port and DNS, and lets out DNS and a block.
"""

import random
from collections.abc import Iterator
from typing import Any

from cni_py.model.policy import Changes, Namespace, Pod, Policy
from cni_py.policy import objects

Json = dict[str, Any]
APPS = [f"app{number}" for number in range(20)]
OWN = "n1"  # the node that is measured
LOCAL = "10.1.0.0/16"  # its pods
_NODES = 50


class Cluster:
    """So many of each; the first `local` pods are the node's. The same numbers give the same cluster."""

    def __init__(self, pods: int, policies: int, local: int, namespaces: int = 100) -> None:
        self._chance = random.Random(1)  # noqa: S311  # any
        self.names = [f"ns{number}" for number in range(namespaces)]
        self.local = local
        self.pods = [self._pod(number) for number in range(pods)]
        self.policies = [self._policy(number) for number in range(policies)]

    def namespaces(self) -> Iterator[Json]:
        """Their documents."""
        for name in self.names:
            yield {"metadata": {"name": name}}

    def labels(self) -> dict[str, str]:
        """Of one of the forty kinds of pods."""
        return {"app": self._chance.choice(APPS), "tier": self._chance.choice("fb"), "pod-template-hash": "75675f5897"}

    def changes(self) -> Changes:
        """All of it, as values."""
        pods: list[Pod] = [objects.pod(one) for one in self.pods]
        policies: list[Policy] = [objects.policy(one) for one in self.policies]
        namespaces: list[Namespace] = [objects.namespace(one) for one in self.namespaces()]
        return Changes(
            {one.key: one for one in pods},
            {one.name: one for one in namespaces},
            {one.key: one for one in policies},
        )

    def _pod(self, number: int) -> Json:
        """As a kubelet in a cluster leaves it: some 4 kB."""
        is_local = number < self.local
        high, low = divmod(number, 250)
        node = OWN if is_local else f"n{number % _NODES + 2}"
        address = f"10.{1 if is_local else 2}.{high}.{low + 1}"
        container = {
            "name": "main",
            "image": f"images.example.org/team/{APPS[number % 20]}:1.{number % 9}",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": f"SETTING_{one}", "value": f"value-of-{one}"} for one in range(20)],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
        }
        at = "2026-01-01T00:00:00Z"
        conditions = [
            {"type": one, "status": "True", "lastTransitionTime": at}
            for one in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ]
        status = {
            "phase": "Running",
            "conditions": conditions,
            "hostIP": f"192.0.2.{number % _NODES + 2}",
            "podIP": address,
            "podIPs": [{"ip": address}],
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": self.names[number % len(self.names)],
                "name": f"{APPS[number % 20]}-75675f5897-{number:05}",
                "uid": f"00000000-0000-4000-8000-{number:012}",
                "creationTimestamp": at,
                "labels": self.labels(),
            },
            "spec": {"nodeName": node, "automountServiceAccountToken": False, "containers": [container]},
            "status": status,
        }

    def _policy(self, number: int) -> Json:
        space = self.names[number % len(self.names)]
        subject = APPS[number // len(self.names) % len(APPS)]
        other = {"matchLabels": {"kubernetes.io/metadata.name": self._chance.choice(self.names)}}
        peers: list[Json] = [{"podSelector": self._app()} for _ in range(2)]
        peers.append({"namespaceSelector": other, "podSelector": self._app()})
        ports = [{"port": 80}, {"port": "http"}, {"protocol": "UDP", "port": 53}]
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": space, "name": f"policy-{number}"},
            "spec": {
                "podSelector": {"matchLabels": {"app": subject}},
                "ingress": [{"from": peers, "ports": ports}],
                "egress": [
                    {"ports": [{"protocol": "UDP", "port": 53}]},
                    {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
                ],
            },
        }

    def _app(self) -> Json:
        return {"matchLabels": {"app": self._chance.choice(APPS)}}


def widened(policy: Json, port: int) -> Json:
    """The policy with one more rule of ingress."""
    spec = policy["spec"]
    return {**policy, "spec": {**spec, "ingress": [*spec["ingress"], {"ports": [{"port": port}]}]}}

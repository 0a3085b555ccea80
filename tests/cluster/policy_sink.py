"""Who listens to a source of policies under test: what it was told, and what is so by that."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.fake_api import WAIT_S

from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_api import Timing
from cni_py.cluster.kube_policies import KubePolicies, Parsers
from cni_py.cluster.kube_policies import Sink as Listener
from cni_py.model.policy import Changes, Cluster, Namespace, Pod, Policy
from cni_py.policy import objects

PARSERS = Parsers(objects.pod, objects.namespace, objects.policy)
Json = dict[str, Any]
T = TypeVar("T")


class PolicySink:
    """See PolicySink of the agent. `news` are all words, `cluster` is what they come to."""

    def __init__(self) -> None:
        self.news: queue.Queue[Changes] = queue.Queue()
        self.reasons: Mapping[str, str] = {}
        self.trouble_now = ""
        self.troubles: list[str] = []
        self._pods: dict[str, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._policies: dict[str, Policy] = {}
        self._guard = threading.Condition()

    @property
    def cluster(self) -> Cluster:
        """All that is there, by what was told."""
        with self._guard:
            return Cluster(self._pods, self._namespaces, self._policies)

    def changed(self, changes: Changes) -> None:
        """See PolicySink."""
        with self._guard:
            self._pods = _after(self._pods, changes.pods)
            self._namespaces = _after(self._namespaces, changes.namespaces)
            self._policies = _after(self._policies, changes.policies)
            self.news.put(changes)
            self._guard.notify_all()

    def trouble(self, reason: str) -> None:
        """See PolicySink."""
        with self._guard:
            self.trouble_now = reason
            self.troubles.append(reason)
            self._guard.notify_all()

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """See PolicySink."""
        with self._guard:
            self.reasons = reasons
            self._guard.notify_all()

    def until(self, wanted: Callable[["PolicySink"], object], seconds: float = WAIT_S) -> None:
        """It has come to that."""
        until = time.monotonic() + seconds
        while not wanted(self):
            left = until - time.monotonic()
            assert left > 0, (self.cluster, self.reasons, self.trouble_now)
            with self._guard:
                self._guard.wait(min(left, 0.05))


def _after(known: Mapping[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    now = {**known, **changes}
    return {key: value for key, value in now.items() if value is not None}


@contextmanager
def following(access: KubeAccess, timing: Timing) -> Iterator[tuple[PolicySink, KubePolicies]]:
    """A source that tells."""
    sink, source = PolicySink(), KubePolicies(access, PARSERS, timing)
    listener: Listener = sink
    source.start(listener)
    try:
        yield sink, source
    finally:
        source.stop()


def pod(name: str, ip: str = "", *, uid: str = "", app: str = "web", node: str = "n1", **status: Any) -> Json:
    """A Pod, as the API server has it."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid or f"uid-{name}",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": app},
            "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}],
        },
        "status": {"phase": "Running", **({"podIPs": [{"ip": ip}], "podIP": ip} if ip else {}), **status},
    }


def namespace(name: str, **labels: str) -> Json:
    """A Namespace."""
    return {"kind": "Namespace", "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


def policy(name: str, port: Any = 80) -> Json:
    """A NetworkPolicy."""
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": port}]}],
        },
    }

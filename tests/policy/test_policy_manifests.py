"""A directory of manifests as it is used: values of the API's objects, from what an operator writes."""

import queue
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path

from cni_py.cluster.manifests import Manifests
from cni_py.model.policy import TCP, Changes, Cluster, Flow, Namespace, Pod, Policy
from cni_py.policy.objects import namespace, pod, policy
from cni_py.policy.verdict import judge

_Value = Pod | Namespace | Policy
_PARSE: Mapping[str, Callable[[object], _Value]] = {"Pod": pod, "Namespace": namespace, "NetworkPolicy": policy}
_WAIT_SECONDS = 30

_SHOP = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api, version: "1"}}
status: {podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: web
  ingress:
  - from:
    - podSelector: {matchLabels: {app: api}}
    ports:
    - port: 80
"""


def test_policies_of_a_directory(tmp_path: Path) -> None:
    """They are in force as long as nobody takes them back on purpose."""
    told: queue.SimpleQueue[tuple[Mapping[str, Mapping[str, _Value | None]], Mapping[str, str]]] = queue.SimpleQueue()
    (tmp_path / "shop.yaml").write_text(_SHOP)
    source = Manifests(tmp_path, _PARSE, lambda *both: told.put(both), lambda _: None)
    source.start()
    try:
        objects, wrong = told.get(timeout=_WAIT_SECONDS)
        cluster = Cluster(objects["Pod"], objects["Namespace"], objects["NetworkPolicy"])  # type: ignore[arg-type]  # by kind
        flows = [Flow(ip_address("10.0.0.2"), ip_address("10.0.0.1"), TCP, port) for port in (80, 81)]
        assert [judge(cluster, one).passes for one in flows] == [True, False]
        assert not wrong
        (tmp_path / "shop.yaml").write_text(_SHOP.replace('version: "1"', "version: 1"))
        objects, wrong = told.get(timeout=_WAIT_SECONDS)
        assert not any(objects.values())
        assert wrong["shop.yaml"].endswith("1, the value of 'version', is no text (YAML: put it in quotes)")
        (tmp_path / "shop.yaml").unlink()
        objects, wrong = told.get(timeout=_WAIT_SECONDS)
        changes = Changes(objects["Pod"], objects["Namespace"], objects["NetworkPolicy"])  # type: ignore[arg-type]  # by kind
        assert changes == Changes({"shop/web": None, "shop/api": None}, {}, {"shop/web": None})
    finally:
        source.stop()

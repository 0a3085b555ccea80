"""The quick verdict over established connections against the oracle."""

from hypothesis import given, settings
from policy import strategies as make

from cni_py.model.policy import Changes, Cluster
from cni_py.policy.index import Index
from cni_py.policy.permit import denied
from cni_py.policy.verdict import judge


@settings(max_examples=60, deadline=None)
@given(make.clusters())
def test_agrees_with_the_oracle(cluster: Cluster) -> None:
    """All flows of a cluster, judged for all its pods and for none."""
    index = Index()
    index.apply(Changes(cluster.pods, cluster.namespaces, cluster.policies))
    everybody = frozenset(address for pod in cluster.pods.values() for address in pod.addresses)
    for flow in make.all_flows(cluster):
        assert denied(index, flow, everybody) != judge(cluster, flow).passes, flow
        assert not denied(index, flow, frozenset())

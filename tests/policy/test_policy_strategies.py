"""The strategies make what they say: clusters that hold together, and ways that end where they should."""

from hypothesis import given
from hypothesis import strategies as st
from policy.strategies import all_flows, applied, changes, clusters, flows

from cni_py.model.policy import Cluster, Flow
from cni_py.policy.verdict import judge


@given(st.data(), clusters(), clusters())
def test_every_way_ends_there(data: st.DataObject, before: Cluster, after: Cluster) -> None:
    """Whatever the order, the batches and the detours."""
    assert applied(before, data.draw(changes(before, after))) == after


@given(clusters())
def test_objects_are_under_their_keys(cluster: Cluster) -> None:
    """And what has no network of its own has no address."""
    assert all(key == pod.key for key, pod in cluster.pods.items())
    assert all(key == policy.key for key, policy in cluster.policies.items())
    assert not any(pod.addresses for pod in cluster.pods.values() if pod.host_network or pod.finished)


@given(clusters(disputed=False))
def test_undisputed_addresses_have_one_pod(cluster: Cluster) -> None:
    """If it is asked for."""
    told = [address for pod in cluster.pods.values() for address in pod.addresses]
    assert len(told) == len(set(told))


@given(st.data(), clusters())
def test_flows_are_of_one_family(data: st.DataObject, cluster: Cluster) -> None:
    """As on the wire, and all have a verdict."""
    flow: Flow = data.draw(flows(cluster))
    assert flow.source.version == flow.destination.version
    assert judge(cluster, flow).verdict in ("allow", "deny", "would deny")


def test_all_flows_are_few_enough() -> None:
    """Of an empty cluster: those of two strangers with themselves."""
    assert len(all_flows(Cluster({}, {}, {}))) == 2 * 14

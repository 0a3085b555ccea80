"""Real packets on a real kernel against the oracle: all flows between nine pods under policies of every shape."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from policy import strategies as make
from policy.policy_lab import NUMBERS, Lab, address, lab
from policy.test_policy_program import expected

from cni_py.kernel.policy_table import PolicyTable
from cni_py.model.policy import Changes, Cluster
from cni_py.policy import table
from cni_py.policy.index import Index
from cni_py.policy.program import Program

pytestmark = pytest.mark.sudo
LAYOUT = table.layout(guards_node=True)


@pytest.fixture
def place() -> Iterator[Lab]:
    """A node with nine pods."""
    with lab() as made:
        yield made


def in_the_lab(cluster: Cluster) -> Cluster:
    """The cluster, of whose pods each has the addresses of one of the lab's."""
    numbers = list(NUMBERS)
    pods = {}
    for number, (key, pod) in zip(numbers, cluster.pods.items(), strict=False):
        own = tuple(address(number, version) for version in (4, 6)) if pod.addresses else ()
        pods[key] = replace(pod, addresses=own)
    return Cluster(pods, cluster.namespaces, cluster.policies)


def test_nothing_is_lost_without_policies(place: Lab) -> None:
    """The lab itself: every packet of the matrix arrives."""
    flows = set(place.flows())
    assert place.matrix(flows) == flows
    assert place.matrix(flows) == flows


def test_packets_agree_with_the_oracle(place: Lab) -> None:
    """From one cluster to the next by one transaction each: what arrives is what the API's words say."""
    index = Index()
    program = Program(index, "n1")
    kernel = PolicyTable(LAYOUT)
    contents = program.contents()
    kernel.load(contents.sets, {})
    now = Cluster({}, {}, {})
    verdicts = denied = 0

    @settings(
        max_examples=125,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(make.clusters())
    def step(cluster: Cluster) -> None:
        nonlocal now, verdicts, denied
        after = in_the_lab(cluster)
        change = Changes(
            {**dict.fromkeys(now.pods), **after.pods},
            {**dict.fromkeys(now.namespaces), **after.namespaces},
            {**dict.fromkeys(now.policies), **after.policies},
        )
        edit = program.update(index.apply(change))
        kernel.commit(edit.operations)
        now = after
        wanted = {flow for flow in place.flows() if expected(after, flow)[0]}
        assert place.matrix(wanted) == wanted
        verdicts += len(place.flows())
        denied += len(place.flows()) - len(wanted)

    step()
    contents = program.contents()
    assert not kernel.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})
    assert verdicts > 100_000
    assert denied > 1_000
    kernel.close()

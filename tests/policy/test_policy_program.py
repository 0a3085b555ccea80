"""The compiler against the oracle, and every way of getting to a cluster against starting with it."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from policy import strategies as make
from policy.simulator import Table

from cni_py.model.policy import Address, Changes, Cluster, Direction, Flow, Pods, Policy, Port, Rule
from cni_py.policy import compile, program, table  # noqa: A004  # what a compiler does
from cni_py.policy.compile import Compiled, _Way
from cni_py.policy.compile import _peers as compile_peers
from cni_py.policy.compile import _ports as compile_ports
from cni_py.policy.compile import compile_chain as compile_all
from cni_py.policy.index import Index
from cni_py.policy.program import Program
from cni_py.policy.verdict import Side, judge

LAYOUT = table.layout(guards_node=True)
NODE = "n1"
_FLOWS_OF_A_CLUSTER = 600  # about


def everything(cluster: Cluster) -> Changes:
    """All of a cluster, as the first thing that is told."""
    return Changes(cluster.pods, cluster.namespaces, cluster.policies)


def started(cluster: Cluster) -> tuple[Index, Program, Table]:
    """The program of a node that starts with this cluster, and the table that its transaction leaves."""
    index = Index()
    program = Program(index, NODE)
    kernel = Table.of(LAYOUT, program.contents())
    kernel.carry_out(program.update(index.apply(everything(cluster))).operations)
    return index, program, kernel


def expected(cluster: Cluster, flow: Flow) -> tuple[bool, set[str]]:
    """Whether the node lets the flow pass, and the sets that it notes it in: what its own pods say to it."""
    judgement = judge(cluster, flow)

    def here(side: Side) -> bool:
        return side.pod != "" and cluster.pods[side.pod].node == NODE

    noted, passes = set[str](), True
    for side in (judgement.egress, judgement.ingress):
        if passes and here(side) and side.verdict != "allow":
            passes = side.verdict == "would deny"
            sets = table.DENIED if flow.protocol in table.WITH_PORTS else table.DENIED_PORTLESS
            noted.add(sets[side.direction, passes][flow.source.version].name)
    return passes, noted


def compare(cluster: Cluster) -> int:
    """How many verdicts agree: all flows between all pods, and others, allowed, denied and noted as audited alike."""
    _, _, kernel = started(cluster)
    for flow in make.all_flows(cluster):
        passes, noted = kernel.judge(flow)
        assert (passes, set(noted)) == expected(cluster, flow), flow
    return len(make.all_flows(cluster))


def test_compiler_agrees_with_the_oracle(request: pytest.FixtureRequest) -> None:
    """What the compiled rules do, carried out one by one, is what the API's words say."""
    wanted, compared = request.config.getoption("verdicts"), 0

    def step(cluster: Cluster) -> None:
        nonlocal compared
        compared += compare(cluster)

    while compared < wanted:
        left = max(20, min(2000, (wanted - compared) // _FLOWS_OF_A_CLUSTER))
        unlimited = settings(max_examples=left, deadline=None, suppress_health_check=list(HealthCheck))
        unlimited(given(make.clusters())(step))()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_incremental_equals_rebuild(data: st.DataObject) -> None:
    """In any order, with repetitions and detours: the kernel takes each transaction, and it leaves what is wanted."""
    before, after = data.draw(make.clusters()), data.draw(make.clusters())
    index, program, kernel = started(before)
    batches = data.draw(make.changes(before, after))
    for batch in batches:
        kernel.carry_out(program.update(index.apply(batch)).operations)
        assert kernel == Table.of(LAYOUT, program.contents())
    _, fresh, _ = started(make.applied(before, batches))
    assert program.contents() == fresh.contents()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_shrinks_is_told(data: st.DataObject) -> None:
    """A flow that passed and does not any more has an end that is told of as shrunk; so it is looked for."""
    before, after = data.draw(make.clusters()), data.draw(make.clusters())
    index, program, kernel = started(before)
    flows = make.all_flows(before)
    passed = [flow for flow in flows if kernel.judge(flow)[0]]
    change = data.draw(make.changes(before, after))
    shrunk = set[Address]()
    for batch in change:
        edit = program.update(index.apply(batch))
        kernel.carry_out(edit.operations)
        shrunk |= edit.shrunk
    for flow in passed:
        if not kernel.judge(flow)[0]:
            assert shrunk & {flow.source, flow.destination}, flow


def _narrower(ports: Iterable[Port]) -> Iterator[_Way]:
    return compile_ports(replace(one, last=one.first) for one in ports)


def _nameless(_port: Port, _pods: Pods, _versions: Collection[int]) -> Iterator[_Way]:
    yield _Way()


def _blind(rule: Rule, direction: Direction, versions: Collection[int]) -> Iterator[_Way]:
    return compile_peers(replace(rule, peers=rule.peers or None), direction, versions)


def _turned(rule: Rule, direction: Direction, versions: Collection[int]) -> Iterator[_Way]:
    return compile_peers(rule, "egress" if direction == "ingress" else "ingress", versions)


def _anywhere(policies: Sequence[Policy], direction: Direction, *, audit: bool, **_: Collection[int]) -> Compiled:
    return compile_all(policies[:1], direction, audit=audit)


def _always_enforced(policies: Sequence[Policy], direction: Direction, **_: object) -> Compiled:
    return compile_all(policies, direction, audit=False)


MISTAKES = {
    "a range of ports is its first": ("_ports", _narrower),
    "a named port is every port": ("_named", _nameless),
    "no peers are all peers": ("_peers", _blind),
    "the wrong end is looked at": ("_peers", _turned),
    "one policy only": ("compile_chain", _anywhere),
    "audit drops": ("compile_chain", _always_enforced),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the oracle is one that a wrong compiler does not pass."""
    name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(program if name == "compile_chain" else compile, name, wrong)

    @given(make.clusters())
    def step(cluster: Cluster) -> None:
        compare(cluster)

    unshrunk = settings(max_examples=500, deadline=None, database=None, phases=(Phase.generate,))
    with pytest.raises(AssertionError):
        unshrunk(step)()

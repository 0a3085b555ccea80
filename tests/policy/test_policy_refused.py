"""A policy that cannot be made, or that the kernel does not take, closes its own pods and nobody else's."""

import errno
from collections.abc import Iterator, Sequence

import pytest
from policy.policy_lab import NUMBERS, Lab, lab
from policy.test_policies import allow, pod, running, tcp

from cni_py.agent import policy_kernel
from cni_py.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from cni_py.kernel.policy_table import PolicyTable
from cni_py.model.nft import Layout
from cni_py.model.policy import Direction, Policy, Rule, Selector
from cni_py.policy import program
from cni_py.policy.compile import Compiled, compile_chain

pytestmark = pytest.mark.sudo
BAD = b"shop/bad"


@pytest.fixture
def place() -> Iterator[Lab]:
    """A node with nine pods."""
    with lab() as made:
        yield made


class Refusing(NetlinkSocket):
    """The kernel does not take whatever has a rule of the policy shop/bad."""

    def send_batch(self, messages: Sequence[bytes]) -> None:
        """See NetlinkSocket."""
        for number, one in enumerate(messages):
            if BAD in one:
                raise NetlinkError(number, errno.ENOMEM, "as a test wants it")
        super().send_batch(messages)


def test_kernel_refuses(place: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bad policy's pod is closed and that is told; a later one holds; without it all is well."""

    def table(layout: Layout) -> PolicyTable:
        return PolicyTable(layout, lambda: Refusing(NETLINK_NETFILTER))

    monkeypatch.setattr(policy_kernel, "PolicyTable", table)
    web, other = pod(1, "web"), pod(3)
    bad_one = Policy("shop", "bad", allow("x").pods, (Rule(),))  # everything may come in
    with running() as (policies, source, _):
        source.say(*(pod(number) for number in NUMBERS if number not in (1, 3)), web, other)
        source.say(bad_one)
        arrived = place.matrix({tcp(2, 3)})
        assert tcp(2, 1) not in arrived
        assert {tcp(2, 3), tcp(1, 2), tcp(1, 3)} <= arrived
        (condition,) = policies.conditions.report()
        assert "as a test wants it" in str(condition["text"])
        source.say(Policy("shop", "good", Selector(), None, ()))  # nobody of the namespace sends
        assert place.matrix(set()) == set()
        source.say(gone=(bad_one, Policy("shop", "good", Selector(), None, ())))
        assert tcp(2, 1) in place.matrix({tcp(2, 1)})
        assert policies.conditions.report() == []


def test_compiler_fails(place: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours in one policy is told, and its pods are closed."""
    compiled = compile_chain

    def fails(policies: Sequence[Policy], direction: Direction, **more: object) -> Compiled:
        if any(one.name == "bad" for one in policies):
            raise RuntimeError("as a test wants it")
        return compiled(policies, direction, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(program, "compile_chain", fails)
    with running() as (policies, source, _):
        source.say(*(pod(number) for number in NUMBERS if number != 1), pod(1, "web"))
        source.say(Policy("shop", "bad", allow("x").pods, (Rule(),)))
        arrived = place.matrix({tcp(2, 3)})
        assert tcp(2, 1) not in arrived
        assert {tcp(2, 3), tcp(1, 2)} <= arrived
        assert "as a test wants it" in str(policies.conditions.report())

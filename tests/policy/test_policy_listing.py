"""What is in the kernel as nft prints it: nft reads it back, whatever the policies are, and the page shows it so."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from netns.nft_listing import listed, listed_elsewhere
from policy import strategies as make
from policy.test_policy_program import started

from cni_py.kernel.policy_table import PolicyTable
from cni_py.model.policy import Cluster
from cni_py.policy import table
from cni_py.policy.program import Contents

pytestmark = pytest.mark.sudo
LAYOUT = table.layout(guards_node=True)
PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
CHAINS = ("c_forward", "c_input", "c_established", "c_judge", "d_ingress")


def load(kernel: PolicyTable, contents: Contents) -> None:
    """The kernel has these."""
    kernel.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})


def test_listing_loads_again() -> None:
    """Whatever policies there are: nft prints every rule and set of theirs, and what it printed it takes."""
    with closing(PolicyTable(LAYOUT)) as kernel:

        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(make.clusters())
        def step(cluster: Cluster) -> None:
            _, program, _ = started(cluster)
            load(kernel, program.contents())
            listing = listed()
            assert listed_elsewhere(listing) == listing

        step()


def test_page_shows_the_table() -> None:
    """The chains in docs/policy.md are those of the kernel, rule by rule, of IPv4."""
    with closing(PolicyTable(LAYOUT)) as kernel:
        _, program, _ = started(Cluster({}, {}, {}))
        load(kernel, program.contents())
        listing = listed()
    told = re.search(r"```nft\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert told is not None
    page = told[1]
    for name in CHAINS:
        assert _rules(page, name) == [one for one in _rules(listing, name) if "ip6 " not in one], name


def _rules(listing: str, chain: str) -> list[str]:
    body = re.search(rf"chain {chain} \{{[^\n]*\n(.*?)\n\s*\}}", listing, re.DOTALL)
    assert body is not None, chain
    return [line.split("#")[0].strip() for line in body[1].splitlines() if line.split("#")[0].strip()]

"""The choice of a node's networks: free, in the pool, the same each time, spread."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.cluster.subnets import Pool, choose
from cni_py.model.errors import InvalidConfigError, NoAddressError

_POOL = Pool(ip_network("10.244.0.0/20"), 24)  # sixteen


def test_a_pool_is_used_up_to_the_last() -> None:
    """Sixteen nodes get sixteen networks, the seventeenth an error that names the pool."""
    taken = [ip_network("192.0.2.0/24"), ip_network("fd00::/64")]  # these are nobody's business here
    for number in range(16):
        taken.append(choose(_POOL, taken, f"n{number}"))
    assert {one for one in taken if one.version == 4} == {*_POOL.cidr.subnets(new_prefix=24), taken[0]}
    with pytest.raises(NoAddressError, match=r"10\.244\.0\.0/20 has no network of /24 left, all 16"):
        choose(_POOL, taken, "one-too-many")


def test_joins_at_once_seldom_collide() -> None:
    """A hundred that see the same empty pool of 256 want at least seventy different networks."""
    pool = Pool(ip_network("10.244.0.0/16"), 24)
    assert len({choose(pool, (), f"n{number}") for number in range(100)}) >= 70


def test_a_vast_pool_is_no_work() -> None:
    """Four billion networks, half of them taken by one."""
    pool = Pool(ip_network("fd44::/32"), 64)
    half = ip_network("fd44::/33")
    for number in range(20):
        assert not choose(pool, [half], f"n{number}").overlaps(half)


@given(
    st.lists(st.tuples(st.integers(0, 31), st.integers(20, 28)), max_size=40),
    st.text(max_size=5),
)
def test_what_is_chosen_is_free(taken: list[tuple[int, int]], identity: str) -> None:
    """Whatever is taken, also in pieces and around the pool; an error only if nothing is free."""
    others = [ip_network(f"10.{243 + (at >> 4)}.{at & 15}.0/{size}", strict=False) for at, size in taken]
    free = [one for one in _POOL.cidr.subnets(new_prefix=24) if not any(one.overlaps(other) for other in others)]
    if free:
        assert choose(_POOL, others, identity) in free
    else:
        with pytest.raises(NoAddressError):
            choose(_POOL, others, identity)


@pytest.mark.parametrize(("cidr", "prefix"), [("10.0.0.0/16", 15), ("10.0.0.0/16", 33), ("fd00::/48", 129)])
def test_a_pool_without_networks_is_refused(cidr: str, prefix: int) -> None:
    """A node's prefix is within the pool."""
    with pytest.raises(InvalidConfigError, match="has no networks of"):
        Pool(ip_network(cidr), prefix)

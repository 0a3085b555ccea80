"""Whose an address is, of all that claim it: however the index came to know of them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from policy import strategies as make

from cni_py.model.policy import Address, Changes, Pod
from cni_py.policy.index import Index

Attached = dict[str, tuple[Address, ...]]


def owner(pods: dict[str, Pod], attached: Attached, address: Address) -> str | None:
    """What is attached here, else what a status says, else what was announced; of equals what was created last."""

    def title(key: str) -> tuple[bool, bool, str, str, str]:
        pod = pods.get(key)
        by_status = pod is not None and address in pod.addresses and not pod.announced
        here = address in attached.get(key, ())
        return here, by_status, pod.created if pod else "", pod.uid if pod else "", key

    claims = {key for key, pod in pods.items() if address in pod.addresses}
    claims |= {key for key, addresses in attached.items() if address in addresses}
    claims -= {key for key in claims if key in pods and pods[key].host_network}
    return max(claims, key=title, default=None)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_point_21_an_address_has_one_owner(data: st.DataObject) -> None:
    """After any changes of pods and of what is attached; and nobody else is in a set with it."""
    index, pods, attached = Index(), dict[str, Pod](), Attached()
    keys = st.sampled_from([f"{space}/{name}" for space in ("a", "b") for name in "12"])
    few = st.sampled_from(make.POD_ADDRESSES[:3])
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            pod = data.draw(make.pods(few))
            pods[pod.key] = pod
            index.apply(Changes({pod.key: pod}, {}, {}))
        else:
            key, gone = data.draw(keys), data.draw(st.booleans())
            found = None if gone else tuple(data.draw(st.lists(few, max_size=2, unique=True)))
            attached.pop(key, None)
            attached |= {} if found is None else {key: found}
            index.apply(Changes({}, {}, {}), {key: found})
        for address in make.POD_ADDRESSES[:3]:
            expected = owner(pods, attached, address)
            assert index.owner(address) == expected
            assert {key for key in pods.keys() | attached.keys() if address in index.member(key).addresses} == (
                {expected} - {None}
            )

"""The pod in CNI_ARGS: what runtimes give, and what hostile ones might."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.spec.args import pod_name, pod_uid

KUBELET = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (KUBELET, ("shop/web-0", "u-1")),
        ("", ("", "")),
        ("K8S_POD_NAME=web-0", ("", "")),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=", ("", "")),
        ("K8S_POD_NAMESPACE=../../etc;K8S_POD_NAME=passwd", ("", "")),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a/b", ("", "")),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web\n", ("", "")),
        (f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={'a' * 254}", ("", "")),
        (f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={'a' * 253}", (f"shop/{'a' * 253}", "")),
        ("XK8S_POD_NAMESPACE=shop;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a.b", ("shop/a.b", "")),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAMESPACE=other;K8S_POD_NAME=a", ("shop/a", "")),
    ],
)
def test_pod(args: str, expected: tuple[str, str]) -> None:
    """NAMESPACE/NAME and uid, or nothing."""
    assert (pod_name(args), pod_uid(args)) == expected


@given(st.text())
def test_anything(args: str) -> None:
    """No text is an error, and of a name there is one slash."""
    assert pod_name(args).count("/") in (0, 1)
    pod_uid(args)

"""A machine's identity: the same each time, not the machine's id, and an error where there is none."""

from pathlib import Path

import pytest

from cni_py.cluster.etcd_access import machine_identity
from cni_py.model.errors import IOFailureError


def test_an_identity_is_a_hash(tmp_path: Path) -> None:
    """With or without the newline; another machine has another one."""
    for name, text in (("a", "0123456789abcdef" * 2), ("b", "0123456789abcdef" * 2 + "\n"), ("c", "f" * 32)):
        (tmp_path / name).write_text(text)
    first, again, other = (machine_identity(tmp_path / name) for name in "abc")
    assert first == again != other
    assert len(first) == 32
    assert "0123456789abcdef" not in first


@pytest.mark.parametrize("text", [None, "", "uninitialized\n", "0" * 32, "zz" * 16, "\u00e9" * 32])
def test_no_identity_is_an_error(tmp_path: Path, text: str | None) -> None:
    """An image that was not started yet, a container without the file: two of them would be one node."""
    path = tmp_path / "machine-id"
    if text is not None:
        path.write_text(text)
    with pytest.raises(IOFailureError, match=str(path)) as caught:
        machine_identity(path)
    assert caught.value.details

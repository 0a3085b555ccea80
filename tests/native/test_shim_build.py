"""What the build makes: small files that need nothing of the node but its kernel. `./dev setup` has built them."""

import struct
from pathlib import Path

import pytest
from native.conftest import ROOT

from cni_py.cmd import shim_file
from cni_py.model.errors import IOFailureError

MACHINES = {"x86_64": 62, "aarch64": 183}
EXECUTABLE = 2
LOAD, DYNAMIC, INTERPRETER, STACK = 1, 2, 3, 0x6474E551
X, W = 1, 2


def segments(data: bytes) -> list[tuple[int, int]]:
    """(type, flags) of each segment of a 64-bit ELF file."""
    offset = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    return [struct.unpack_from("<II", data, offset + number * size) for number in range(count)]


@pytest.mark.parametrize("machine", MACHINES)
def test_file(machine: str) -> None:
    """Below 40 kB, static, for its machine; no interpreter, nothing both writable and executable, no such stack."""
    path = ROOT / f"build/shim-{machine}"
    data = path.read_bytes()
    assert path.stat().st_mode & 0o111
    assert len(data) < 40_000
    assert data[:7] == b"\x7fELF\x02\x01\x01"
    assert struct.unpack_from("<HH", data, 16) == (EXECUTABLE, MACHINES[machine])
    kinds = dict(segments(data))
    assert not {DYNAMIC, INTERPRETER} & set(kinds)
    assert not kinds[STACK] & X
    assert not [flags for kind, flags in segments(data) if kind == LOAD and flags & X and flags & W]


def test_found_in_a_checkout() -> None:
    """A checkout's is below `build`."""
    assert shim_file.shim_path().parent == ROOT / "build"


def test_found_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel's is beside the packages; an installation without one says what to do."""
    name = shim_file.shim_path().name
    monkeypatch.setattr(shim_file, "_PACKAGE", tmp_path / "cni_py")
    with pytest.raises(IOFailureError, match=name) as caught:
        shim_file.shim_path()
    assert "./dev shim" in caught.value.details
    inside = tmp_path / "cni_py/_native" / name
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert shim_file.shim_path() == inside

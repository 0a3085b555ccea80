"""Where the native forwarder is: inside the wheel, or in the checkout's `build` directory."""

import os
from pathlib import Path

from cni_py.model.errors import IOFailureError

_PACKAGE = Path(__file__).parent.parent


def shim_path() -> Path:
    """The shim for this machine, an executable ELF file. Raises IOFailureError where there is none."""
    name = f"shim-{os.uname().machine}"
    for path in (_PACKAGE / "_native" / name, _PACKAGE.parent / "build" / name):
        if path.is_file():
            return path
    raise IOFailureError(
        f"this installation of cni-py has no native forwarder {name}",
        "in a checkout run ./dev shim; else install the wheel for this machine, which was built with a C compiler",
    )

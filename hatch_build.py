"""The wheel's build hook: the native forwarder is compiled into it, for the machine that builds.

With the C compiler there is, else with ziglang, which the hook asks for as a build dependency. Without either the wheel
is pure Python, which a warning says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = ("x86_64", "aarch64")
ZIG = "ziglang==0.17.1"  # as in requirements/zig.txt


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which(os.environ.get("CC", "cc"))


class ShimHook(BuildHookInterface[Any]):
    """Adds `cni_py/_native/shim-MACHINE` and tags the wheel with the machine, but with no Python and no C library."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Ziglang, only where no compiler is found."""
        return [ZIG] if os.uname().machine in MACHINES and compiler() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """The shim is built and in the wheel's file list; an editable install takes the checkout's `build`."""
        machine = os.uname().machine
        if version == "editable":
            return
        if machine not in MACHINES:
            self.app.display_warning(f"no native forwarder for {machine}: the wheel is pure Python")
            return
        shim = Path(self.root, "build", f"wheel-shim-{machine}")
        environ = dict(os.environ)
        if compiler() is None:
            environ |= {"ZIG": sys.executable, "TARGET": machine}
        try:
            subprocess.run([Path(self.root, "native/build"), shim], env=environ, check=True)  # noqa: S603  # our own
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"no native forwarder, the wheel is pure Python: {error}")
            return
        build_data["force_include"][str(shim)] = f"cni_py/_native/shim-{machine}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """The wheel holds the shim; the build's own copy goes."""
        Path(self.root, "build", f"wheel-shim-{os.uname().machine}").unlink(missing_ok=True)

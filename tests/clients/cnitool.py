"""cnitool, libcni's own client, compiled with the reference plugins."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cnitool:
    """cnitool with a CNI_PATH and a directory of lists."""

    program: Path
    path: Path
    lists: Path
    capabilities: Mapping[str, Any]

    def define(self, plugins: list[dict[str, Any]], version: str = "1.1.0") -> None:
        """The network `net` is this list."""
        document = {"cniVersion": version, "name": "net", "plugins": plugins}
        (self.lists / "10-net.conflist").write_text(json.dumps(document))

    def __call__(self, verb: str, container: str = "c1") -> tuple[int, str]:
        """The exit status, and what it printed."""
        finished = subprocess.run(
            [self.program, verb, "net", f"/run/netns/{container}"],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "CNI_PATH": str(self.path),
                "NETCONFPATH": str(self.lists),
                "CAP_ARGS": json.dumps(self.capabilities),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in finished.stderr
        return finished.returncode, finished.stdout + finished.stderr

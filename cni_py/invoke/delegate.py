"""Find the plugin to delegate to (SPEC 1.1 section 4)."""

import os
import re
from pathlib import Path

from cni_py.model.errors import PluginError

# A name, never a path: `type: ../../sbin/reboot` was CVE-2021-20206.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


def check_name(name: str) -> None:
    """Raise PluginError unless `name` is a file name and no more."""
    if not _NAME.fullmatch(name):
        raise PluginError(f"invalid plugin name: {name[:80]!r}", "a plugin's type is a file name, without directories")


def missing(name: str, path: tuple[str, ...]) -> PluginError:
    """The error for a plugin that is in none of the directories."""
    listed = " ".join(path)
    return PluginError(
        f'failed to find plugin "{name}" in path [{listed}]', f"install {name} in one of these directories"
    )


def find_plugin(name: str, path: tuple[str, ...]) -> Path:
    """The first regular file of that name in the directories of CNI_PATH. Raises PluginError."""
    check_name(name)
    for directory in path:
        candidate = Path(directory, name)
        if os.path.isfile(candidate):  # noqa: PTH113  # Path's raises for names that no file can have
            return candidate
    raise missing(name, path)

"""The network configuration that runtimes find: which one it is, whether it is one, and what would come before it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cni_py.model.errors import CniPyError, InvalidConfigError, IOFailureError
from cni_py.spec import gojson
from cni_py.spec.versions import SUPPORTED
from cni_py.store.placing import Content, Place

MODE = 0o644
DEFAULT = "10-cni-py.conflist"
_SUFFIXES = (".conf", ".conflist", ".json")  # as libcni; the first of all in the order of their names is taken
_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Conflist:
    """A configuration that was read and is one: `name` in the directory, `content` as it is written."""

    name: str
    content: Content


def read_conflist(path: str) -> Conflist:
    """The one at `path`, or for "" the one that comes with this program. Raises CniPyError."""
    source = Path(path) if path else _shipped()
    try:
        data = source.read_bytes()
    except OSError as error:
        raise IOFailureError(f"cannot read {source}: {error.strerror}", "give a conflist with --conflist") from None
    if not source.name.endswith(".conflist"):
        raise InvalidConfigError(f"{source} is not named *.conflist", "runtimes read a list only under such a name")
    _check(source, data)
    return Conflist(source.name, Content(data, MODE))


def _shipped() -> Path:
    places = (_PACKAGE.parent / "conf" / DEFAULT, Path(sys.prefix, "share/cni-py", DEFAULT), *_beside())
    return next((path for path in places if path.is_file()), places[0])


def _beside() -> list[Path]:
    """Where a wheel in an environment that was not activated has its data: share beside lib."""
    return [parent / "share/cni-py" / DEFAULT for parent in _PACKAGE.parents[1:5]]


def _check(source: Path, data: bytes) -> None:
    next_step = "see docs/options.md for one that works"
    try:
        config = gojson.decode(data)
        plugins = gojson.get_list(config, "plugins")
        types = [gojson.get_string(one, "type") for one in plugins if isinstance(one, dict)]
        name, version = gojson.get_string(config, "name"), gojson.get_string(config, "cniVersion")
    except CniPyError as error:
        raise InvalidConfigError(f"{source}: {error.message}", next_step) from None
    if not name:
        raise InvalidConfigError(f"{source} has no name", next_step)
    if version not in SUPPORTED:
        raise InvalidConfigError(f"{source}: cniVersion {version[:40]!r}", f"we speak {', '.join(SUPPORTED)}")
    if len(types) != len(plugins) or not all(types) or "cni-py" not in types:
        raise InvalidConfigError(f'{source} has no plugin of type "cni-py", or one without a type', next_step)


def rivals(place: Place, name: str) -> list[str]:
    """Configurations in the directory that runtimes take rather than `name`."""
    return [other for other in place.names() if other.endswith(_SUFFIXES) and other < name]


def ours(place: Place) -> tuple[list[str], list[str]]:
    """(configurations with a plugin "cni-py", others that use something else of ours), by name."""
    mine: list[str] = []
    users: list[str] = []
    for name in place.names():
        data = place.read(name) if name.endswith(_SUFFIXES) else None
        try:
            config = gojson.decode(data) if data else {}
            plugins = [config, *(one for one in gojson.get_list(config, "plugins") if isinstance(one, dict))]
            types = {gojson.get_string(one, "type") for one in plugins}
            types |= {gojson.get_string(gojson.get_object(one, "ipam"), "type") for one in plugins}
        except CniPyError:
            continue  # no configuration, or none that a runtime could read
        if "cni-py" in types:
            mine.append(name)
        elif used := types & {"cni-py-ipam", "cni-py-policy"}:
            users.append(f"{name}, which uses {' and '.join(sorted(used))}")
    return mine, users


def is_present(directory: str, name: str) -> bool:
    """True if a file of that name is in the directory."""
    return os.path.isfile(os.path.join(directory, name))  # noqa: PTH113, PTH118  # asked by every probe

"""The option `sysctl`: values for the container's /proc/sys/net, as the reference's tuning plugin takes them."""

import re
from collections.abc import Mapping

from cni_py.model.errors import InvalidConfigError
from cni_py.model.net import Sysctl

_KEY = re.compile(r"net(/[^/\s\x00-\x1f\x7f]+)+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_MAX_KEY, _MAX_VALUE = 255, 1024
_HINT = 'such as {"net.core.somaxconn": "512"}; only what is below net is the container\'s own'


def parse_sysctls(given: Mapping[str, object], ifname: str = "IFNAME") -> tuple[Sysctl, ...]:
    """The sysctls of the container, in the order given: keys have slashes, values one blank between words.

    A dot in a key is a slash; IFNAME stands for the container's interface, whose name may have dots. Raises
    InvalidConfigError for a key that is not below `net` or is there twice, and for a value that is no string.
    """
    found: dict[str, Sysctl] = {}
    for name, value in given.items():
        key = name.replace(".", "/")
        if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
            raise InvalidConfigError(f"invalid net sysctl key: {name[:80]!r}", f"write sysctl {_HINT}")
        if not isinstance(value, str):
            raise InvalidConfigError(
                f"the value of sysctl {name!r} is not a string: {str(value)[:80]}", f"write it in quotes, {_HINT}"
            )
        if not value.strip() or len(value) > _MAX_VALUE or not _VALUE.fullmatch(value):
            raise InvalidConfigError(f"the value of sysctl {name!r} is no line of text: {value[:80]!r}", _HINT)
        key = key.replace("IFNAME", ifname, 1)
        if key in found:
            raise InvalidConfigError(f"sysctl {name!r} is given twice", "keep one of its spellings")
        found[key] = Sysctl("container", key, " ".join(value.split()))
    return tuple(found.values())

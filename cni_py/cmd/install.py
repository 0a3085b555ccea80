"""`cni-py install`: the forwarder where runtimes look for plugins, and, when the agent answers, the configuration."""

import threading
import time
from collections.abc import Iterator

from cni_py.cmd.conflist import Conflist, read_conflist, rivals
from cni_py.cmd.shim_file import shim_path
from cni_py.invoke.forward import report
from cni_py.model.errors import IOFailureError, TryAgainError
from cni_py.spec import frame
from cni_py.store.placing import Content, Place, opened

NAMES = ("cni-py", "cni-py-ipam", "cni-py-policy")
LOOPBACK = "loopback"
_MARK = frame.SOCKET.encode()  # what every forwarder of ours has in it, of whichever release
_BETWEEN_SECONDS = 0.1


def install(bin_dir: str, conf_dir: str, conflist: str, wait_seconds: float) -> Iterator[str]:
    """Forwarders are in `bin_dir`, then the configuration in `conf_dir`, unless that is "": what is done, in words.

    The configuration comes last, when the agent has answered: with it a runtime takes the node for ready. Raises
    IOFailureError, InvalidConfigError, TryAgainError.
    """
    configuration = read_conflist(conflist) if conf_dir else None  # before anything is touched
    yield from place_binaries(bin_dir)
    if configuration is not None:
        await_agent(wait_seconds)
        yield from place_conflist(conf_dir, configuration)


def place_binaries(bin_dir: str) -> list[str]:
    """The forwarder is in the directory under our names, and as `loopback` where nobody else's is."""
    shim = shim_path()
    try:
        content = Content(shim.read_bytes(), 0o755)
    except OSError as error:
        raise IOFailureError(f"cannot read {shim}: {error.strerror}", "install cni-py anew") from None
    with opened(bin_dir, make=True) as place:
        foreign = place.has(LOOPBACK) and not is_ours(place, LOOPBACK)
        names = NAMES if foreign else (*NAMES, LOOPBACK)
        changed = place.put(dict.fromkeys(names, content))
    return [_told(bin_dir, name, name in changed) for name in names] + (
        [f"{bin_dir}/{LOOPBACK}: somebody else's, left alone"] if foreign else []
    )


def place_conflist(conf_dir: str, configuration: Conflist) -> list[str]:
    """The configuration is in the directory; what was done, and what would be taken before it."""
    with opened(conf_dir, make=True) as place:
        changed = place.put({configuration.name: configuration.content})
        before = rivals(place, configuration.name)
    return [
        _told(conf_dir, configuration.name, bool(changed)),
        *(
            f"WARNING: runtimes take {conf_dir}/{name} first: remove it, or give ours a name before it"
            for name in before
        ),
    ]


def is_ours(place: Place, name: str) -> bool:
    """True for a forwarder of ours, of whichever release."""
    data = place.read(name)
    return data is not None and _MARK in data


def await_agent(seconds: float) -> None:
    """The agent has answered. Raises TryAgainError if it does not within that time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()  # never set: the agent may be in another container, so nothing tells us
    while report(max(0.1, deadline - time.monotonic())) is None:
        if time.monotonic() >= deadline:
            raise TryAgainError(
                f"no agent answers on {frame.SOCKET} after {seconds:g} s; the network configuration was not written",
                "start it (systemctl start cni-py, or cni-py agent), see its log, and run this again",
            )
        pause.wait(_BETWEEN_SECONDS)


def _told(directory: str, name: str, changed: bool) -> str:  # noqa: FBT001  # two words
    return f"{directory}/{name}: {'written' if changed else 'as it should be'}"

"""STATUS: can an ADD be served? Asked every few seconds by some runtimes, so it loads next to nothing."""

from collections.abc import Iterable

from cni_py.model.attachment import Attachment
from cni_py.model.errors import CniPyError, DegradedError, UnavailableError
from cni_py.model.ports import Delegate, Records


def status(ipam_type: str, records: Records, delegate: Delegate, *, forwarding: bool, serving: bool) -> None:
    """SPEC 1.1 section 2 STATUS: returns if an ADD can be served, else UnavailableError (50) or DegradedError (51).

    `serving`: containers are attached whose traffic is forwarded; `forwarding`: the kernel does forward.
    """
    try:
        records.check_writable()
    except CniPyError as error:
        raise UnavailableError(error.message, error.details) from None
    if serving and not forwarding:
        raise DegradedError(
            "IP forwarding was switched off while containers are attached",
            "run: sysctl -w net.ipv4.ip_forward=1, and find out who switched it off",
        )
    if ipam_type:
        delegate.run(ipam_type, "STATUS")


def serves_traffic(attachments: Iterable[Attachment]) -> bool:
    """True if a container is attached whose packets the node forwards."""
    return any(one.mode == "routed" or (one.port is not None and one.port.gateways) for one in attachments)

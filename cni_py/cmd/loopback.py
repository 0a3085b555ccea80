"""The loopback persona: `lo` of the container up and down, which containerd asks of a plugin for every pod."""

from cni_py.kernel.kernels import NodeKernels
from cni_py.model.errors import BadEnvironmentError, CheckFailedError
from cni_py.model.net import Link
from cni_py.model.ops import SetLink
from cni_py.model.result import Interface, IPConfig, Result
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import parse_result, render_result

_UP = Link("container", "lo", "other", up=True)
_DOWN = Link("container", "lo", "other", up=False)


def call(request: Request, kernels: NodeKernels) -> bytes:
    """What the verb prints. CNI_IFNAME does not matter, as with the reference. Raises CniPyError."""
    match request.command:
        case "ADD":
            return render_result(_add(request, kernels), request.cni_version)
        case "DEL":
            with kernels.host(request.netns) as kernel:
                if kernel.has_container:
                    kernel.apply([SetLink(_DOWN, _UP)])
        case "CHECK":
            with kernels.container(request.netns) as kernel:
                seen = kernel.see_link("container", "lo")
                if seen is None or not seen.flags & 1:
                    raise CheckFailedError("loopback interface is down", "DEL the container and ADD it again")
        case "GC" | "STATUS":
            pass
        case other:
            raise BadEnvironmentError(f"unknown CNI_COMMAND: {other}")
    return b""


def _add(request: Request, kernels: NodeKernels) -> Result:
    with kernels.container(request.netns, allow_own=request.netns_override) as kernel:
        kernel.apply([SetLink(_UP, _DOWN)])
        previous = gojson.get_object(request.config, "prevResult")
        if previous:
            return parse_result(previous, request.cni_version, same_family=True)
        addresses = [address.address for address in kernel.addresses("container", "lo")]
    return Result(
        interfaces=(Interface("lo", "00:00:00:00:00:00", sandbox=request.netns),),
        ips=tuple(IPConfig(address, interface=0) for address in addresses),
    )

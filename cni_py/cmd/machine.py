"""What the plugins ask of where they run.

The script's machine (`cmd.cold`) opens everything for one call, the agent's (`cmd.warm`) keeps what lasts.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from cni_py.model.ports import Delegate, Firewall, Gate, Observer, Records
from cni_py.spec.request import Request

if TYPE_CHECKING:
    from cni_py.cni.attach import Occasion
    from cni_py.kernel.kernels import NodeKernels


class Machine(Protocol):
    """What one call is carried out on."""

    def ipam(self, request: Request) -> bytes:
        """What our IPAM plugin prints."""

    def records(self, state_dir: str) -> Records:
        """The attachment records below a state directory."""

    def delegate(self, request: Request, state_dir: str) -> Delegate:
        """Runs IPAM plugins for that request, whose attachment is, or will be, recorded below `state_dir`."""

    def kernels(self) -> "NodeKernels":
        """The namespaces."""

    def firewall(self) -> AbstractContextManager[Firewall]:
        """The nftables of the host, for a block."""

    def observer(self) -> Observer:
        """Reads the namespaces back."""

    def gate(self) -> Gate:
        """The network policies of the node's pods."""

    def occasion(self) -> "Occasion":
        """This moment."""

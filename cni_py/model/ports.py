"""What the verbs need of the machine, as Protocols: adapters serve them, tests serve them in memory."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cni_py.model.attachment import Attachment, Key
from cni_py.model.net import NodeState, Ns
from cni_py.model.nft import Change, Layout
from cni_py.model.ops import Op
from cni_py.model.result import Result


class Kernel(Protocol):
    """The host's and one container's namespace. All methods raise KernelError for what the kernel refuses."""

    def has_link(self, ns: Ns, name: str) -> bool:
        """True if a link of that name exists."""

    def facts(self, desired: NodeState) -> NodeState:
        """What is there of the objects in `desired` that are shared with others: bridges, addresses, sysctls."""

    def apply(self, ops: Sequence[Op]) -> None:
        """All changes take effect or none."""

    def undo(self, ops: Sequence[Op]) -> list[str]:
        """The inverses, last first; what could not be undone, in words."""

    def mac_of(self, ns: Ns, name: str) -> str:
        """The MAC of a link, "" if there is no such link."""

    def kind_of(self, ns: Ns, name: str) -> str:
        """The kind of a link as the kernel names it, "" if there is no such link."""

    def host_peer(self, ifname: str) -> str:
        """The host's device at the other end of the container's veth, "" if there is none."""

    def await_carrier(self, name: str) -> None:
        """The link sends, and as a bridge port forwards. Raises KernelError if it does not within 2.5 s."""


class Kernels(Protocol):
    """Opens namespaces for the length of a block."""

    def container(self, path: str, *, allow_own: bool = False) -> AbstractContextManager[Kernel]:
        """The host's namespace and that at `path`. Raises NetnsError, also if both are one, unless `allow_own`."""

    def host(self, path: str = "") -> AbstractContextManager[Kernel]:
        """The host's namespace and, if there is one other than the host's at `path`, that as well."""


class Observer(Protocol):
    """Reads the whole state of an attachment back, for CHECK."""

    def observe(self, desired: NodeState, path: str) -> NodeState:
        """What is there of the objects in `desired`, in the host's namespace and in that at `path`."""


class Firewall(Protocol):
    """nftables and connection tracking of the host's namespace."""

    def commit(self, change: Change, restore: Callable[[], Change]) -> None:
        """One transaction; `restore` gives what else belongs into a table that had to be made anew.

        Raises KernelError, ExistsError; then nothing of it took effect.
        """

    def remove_if_empty(self, layouts: Iterable[Layout]) -> None:
        """Those of the layouts' tables that hold no element are gone."""

    def missing(self, change: Change) -> list[str]:
        """What of the elements that `change` adds, and of the rules that use them, is to be mended, in words."""

    def forget_udp(self, attachment: Attachment, *, translated_only: bool) -> None:
        """Tracked UDP flows to the attachment's host ports, all or those that lead to it, are gone."""


class Records(Protocol):
    """Attachment records on disk; all methods raise IOFailureError."""

    def locked(self) -> AbstractContextManager[None]:
        """No other process is in such a block."""

    def get(self, key: Key, plugin: str) -> Attachment | None:
        """One record, None if there is none."""

    def put(self, attachment: Attachment) -> None:
        """The record is on disk."""

    def delete(self, attachment: Attachment) -> None:
        """The record is gone."""

    def list(self, network: str = "") -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """All records, or one network's, and what is wrong with files that are none."""

    def sweep(self, network: str) -> None:
        """Nothing half-written of a network is left; under the lock."""

    def has_others(self, attachment: Attachment) -> bool:
        """True if there is a record besides this one, of any network."""

    def boot_of_last_add(self) -> str:
        """The boot id noted last."""

    def note_boot(self, boot: str) -> None:
        """The boot id is noted."""

    def check_writable(self) -> None:
        """Raises if records could not be written."""


class Gate(Protocol):
    """The network policies of the node's pods. All methods raise CniPyError."""

    @property
    def enforces(self) -> bool:
        """True if there are any: a policy agent runs here."""

    def expect(self, pod: str, uid: str) -> None:
        """What holds for the pod (NAMESPACE/NAME, "" if it is none; uid "" if not known) is known. May take seconds."""

    def admit(self, attachment: Attachment) -> None:
        """The policies of its pod are in the kernel; from now on, and not before, its packets pass as they say."""

    def dismiss(self, attachment: Attachment) -> None:
        """The attachment's addresses are nobody's any more. Succeeds also if they were not admitted."""


class Delegate(Protocol):
    """Runs the IPAM plugin."""

    def lease(self, plugin: str) -> Result:
        """The result of the plugin's ADD, called as we were. Raises what `run` does, DecodeError for no result."""

    def run(self, plugin: str, command: str, key: Key | None = None) -> bytes:
        """What the plugin prints, called as we were but with that command and, for another attachment, its key.

        Raises DelegatedError or PluginError.
        """

    def release(self, attachment: Attachment) -> None:
        """The lease of a recorded attachment is free, by a DEL with the configuration of the record."""

"""The script's machine: kernel and disk as this one process finds them, opened for one call."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from cni_py.cmd import ipam

if TYPE_CHECKING:
    from pathlib import Path

    from cni_py.cmd.delegates import ScriptDelegate
    from cni_py.cni.attach import Occasion
    from cni_py.kernel.kernels import NodeKernels
    from cni_py.model.ports import Firewall, Gate, Observer
    from cni_py.spec.request import Request
    from cni_py.store.attachments import AttachmentStore


class ColdMachine:
    """See `cmd.cni.Machine`. `program` is the file that was started, `environ` goes on to delegated plugins."""

    def __init__(self, environ: Mapping[str, str], program: "Path") -> None:
        self._environ = environ
        self._program = program

    def ipam(self, request: "Request") -> bytes:
        """See Machine."""
        return ipam.call(request)

    def records(self, state_dir: str) -> "AttachmentStore":
        """See Machine."""
        from cni_py.store.attachments import AttachmentStore

        return AttachmentStore(state_dir)

    def delegate(self, request: "Request", state_dir: str) -> "ScriptDelegate":
        """See Machine."""
        from cni_py.cmd.delegates import ScriptDelegate

        return ScriptDelegate(request, state_dir, self._environ, self._program)

    def kernels(self) -> "NodeKernels":
        """See Machine."""
        from cni_py.kernel.kernels import NodeKernels

        return NodeKernels()

    @contextmanager
    def firewall(self) -> Iterator["Firewall"]:
        """See Machine."""
        from cni_py.kernel.firewall import NftFirewall

        with closing(NftFirewall()) as firewall:
            yield firewall

    def observer(self) -> "Observer":
        """See Machine."""
        from cni_py.kernel.observe import NodeObserver

        return NodeObserver()

    def gate(self) -> "Gate":
        """See Machine. No agent answers, or it would have been asked: what it has closed stays closed until it does."""
        from cni_py.cni.call import OPEN_GATE

        return OPEN_GATE

    def occasion(self) -> "Occasion":
        """See Machine."""
        from cni_py.cni.attach import Occasion
        from cni_py.kernel.netns import own_identity
        from cni_py.store.node_file import NodeFile

        spare_mac = "0a:" + os.urandom(5).hex(":")
        return Occasion(ipam.boot_id(), int(time.time()), spare_mac, own_identity(), NodeFile().read())

"""Opens the namespaces of a call: the host's is the one that this thread is in, the container's is CNI_NETNS."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cni_py.kernel import netns
from cni_py.kernel.apply import ShaperAdapter
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.kernel.node import NodeKernel, open_route_socket
from cni_py.kernel.sysctl import write_sysctl
from cni_py.model.errors import NetnsError


class NodeKernels:
    """Makes a `NodeKernel` for the length of a block; the arguments are seams, at which tests make the kernel fail."""

    def __init__(
        self,
        shapers: ShaperAdapter | None = None,
        open_socket: Callable[[], NetlinkSocket] = open_route_socket,
        write: Callable[[str, str], None] = write_sysctl,
    ) -> None:
        self._shapers = shapers
        self._open_socket = open_socket
        self._write = write
        self.messages_sent = 0
        self.seconds_in_kernel = 0.0

    @contextmanager
    def container(self, path: str, *, allow_own: bool = False) -> Iterator[NodeKernel]:
        """The host's namespace and that at `path`. Raises NetnsError, also if both are one, unless `allow_own`.

        The reference looks after the work is done: it leaves a veth pair behind and prints two documents.
        """
        fd = netns.open_path(path)
        try:
            if not allow_own and _is_own(fd):
                raise NetnsError(
                    "plugin's netns and netns from CNI_NETNS should not be the same",
                    f"{path} is the namespace that the plugin was started in; give the container's own",
                )
            yield from self._kernel(fd)
        finally:
            os.close(fd)

    @contextmanager
    def host(self, path: str = "") -> Iterator[NodeKernel]:
        """The host's namespace and, if there is one other than the host's at `path`, that as well."""
        fd = netns.open_if_present(path)
        try:
            yield from self._kernel(None if fd is None or _is_own(fd) else fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _kernel(self, fd: int | None) -> Iterator[NodeKernel]:
        kernel = NodeKernel(fd, self._shapers, self._open_socket, self._write)
        try:
            yield kernel
        finally:
            self.messages_sent += kernel.messages_sent
            self.seconds_in_kernel += kernel.seconds_in_kernel
            kernel.close()


def _is_own(fd: int) -> bool:
    own = netns.open_own()
    try:
        return netns.same(fd, own)
    finally:
        os.close(own)

"""Opens the namespaces of a call: the host's is the one that this thread is in, the container's is CNI_NETNS.

The agent gives what it has already: the container's descriptor came with the call, and the host's sockets stay open.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cni_py.kernel import netns
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.kernel.node import NodeKernel, open_route_socket
from cni_py.kernel.sysctl import write_sysctl
from cni_py.kernel.warm_host import WarmHost
from cni_py.model.errors import NetnsError


class NodeKernels:
    """Makes a `NodeKernel` for the length of a block.

    `open_socket` and `write` are seams, at which tests make the kernel fail. `open_netns` gives a descriptor of the
    namespace at a path, to be closed here, or raises NetnsError. `warm` outlives the block.
    """

    def __init__(
        self,
        open_socket: Callable[[], NetlinkSocket] = open_route_socket,
        write: Callable[[str, str], None] = write_sysctl,
        *,
        open_netns: Callable[[str], int] = netns.open_path,
        warm: WarmHost | None = None,
    ) -> None:
        self._open_socket = open_socket
        self._write = write
        self._open_netns = open_netns
        self._warm = warm
        self.messages_sent = 0
        self.seconds_in_kernel = 0.0

    @contextmanager
    def container(self, path: str, *, allow_own: bool = False) -> Iterator[NodeKernel]:
        """The host's namespace and that at `path`. Raises NetnsError, also if both are one, unless `allow_own`.

        The reference looks after the work is done: it leaves a veth pair behind and prints two documents.
        """
        fd = self._open_netns(path)
        try:
            if not allow_own and self._is_own(fd):
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
        fd = self._open_if_present(path)
        try:
            yield from self._kernel(None if fd is None or self._is_own(fd) else fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _open_if_present(self, path: str) -> int | None:
        """None when there is no namespace (DEL: it may be gone, never made, or the path empty)."""
        if not path:
            return None
        try:
            return self._open_netns(path)
        except NetnsError:
            return None

    def _kernel(self, fd: int | None) -> Iterator[NodeKernel]:
        host = self._warm.route if self._warm is not None else self._open_socket()
        sent, seconds = host.messages_sent, host.seconds_in_kernel
        try:
            kernel = NodeKernel(fd, host, self._open_socket, self._write, self._warm)
            try:
                yield kernel
            finally:
                self.messages_sent += kernel.messages_sent - sent
                self.seconds_in_kernel += kernel.seconds_in_kernel - seconds
                kernel.close()
        finally:
            if self._warm is None:
                host.close()

    def _is_own(self, fd: int) -> bool:
        if self._warm is not None:
            return self._warm.is_host_of(fd)
        own = netns.open_own()
        try:
            return netns.same(fd, own)
        finally:
            os.close(own)

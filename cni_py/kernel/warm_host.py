"""What the agent keeps open of its own network namespace."""

from cni_py.kernel import netns
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from cni_py.kernel.removal import LinkRemover
from cni_py.kernel.shared import SharedLinks


class WarmHost:
    """The namespace in which it is made: a route socket, a descriptor of it, its bridges, and a way to remove links."""

    def __init__(self) -> None:
        self.route = NetlinkSocket(NETLINK_ROUTE)
        self.home = netns.open_own()
        self.identity = netns.identity(self.home)
        self.shared = SharedLinks()
        self.remover = LinkRemover()

    def is_host_of(self, fd: int) -> bool:
        """True if the descriptor is of this namespace."""
        return netns.same(fd, self.home)

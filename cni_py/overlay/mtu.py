"""The MTU that a tunnel leaves to its packets, and the sum that tells why."""

from dataclasses import dataclass

from cni_py.model.overlay import Tunnel

_IP = {4: 20, 6: 40}
_UDP, _VXLAN, _ETHERNET = 8, 8, 14
_NAMES: dict[Tunnel, str] = {"vxlan": "VXLAN", "gpe": "VXLAN-GPE"}


@dataclass(frozen=True, slots=True)
class Mtu:
    """An underlay's MTU less the headers of a tunnel over that family; `tunnel` None is a plain route."""

    underlay: int
    tunnel: Tunnel | None = None
    version: int = 4

    @property
    def overhead(self) -> int:
        """Bytes that the tunnel puts before an IP packet: 50 or 70 with VXLAN, 36 or 56 with VXLAN-GPE."""
        if self.tunnel is None:
            return 0
        return _IP[self.version] + _UDP + _VXLAN + (_ETHERNET if self.tunnel == "vxlan" else 0)

    @property
    def value(self) -> int:
        """Bytes of the largest IP packet that passes."""
        return self.underlay - self.overhead

    def __str__(self) -> str:
        """`1500 - 50 (VXLAN over IPv4) = 1450`."""
        if self.tunnel is None:
            return f"{self.underlay} (plain routes)"
        return f"{self.underlay} - {self.overhead} ({_NAMES[self.tunnel]} over IPv{self.version}) = {self.value}"

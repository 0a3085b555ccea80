"""Under which plugin's name the program was started: what it is, and how forgiving."""

from enum import Enum


class Persona(Enum):
    """The value is the name of the executable; under a reference plugin's name we behave as that plugin."""

    CNI_PY = "cni-py"
    CNI_PY_IPAM = "cni-py-ipam"
    CNI_PY_POLICY = "cni-py-policy"
    BRIDGE = "bridge"
    PTP = "ptp"
    HOST_LOCAL = "host-local"
    PORTMAP = "portmap"
    BANDWIDTH = "bandwidth"
    LOOPBACK = "loopback"

    @classmethod
    def named(cls, name: str) -> "Persona":
        """The persona of an executable's name; ours under any other."""
        found = cls._value2member_map_.get(name, cls.CNI_PY)
        return found if isinstance(found, cls) else cls.CNI_PY

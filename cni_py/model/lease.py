"""A lease: the reservation of one address, and whose it is."""

from dataclasses import dataclass

SEPARATOR = "\r\n"
# What Go's strings.TrimSpace takes away; str.strip() would also take \x1c to \x1f.
GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: one interface of one container.

    `attached`: by way of our own main plugin, so there is, or should be, an attachment record below that directory.
    """

    container_id: str
    ifname: str
    attached: str = ""

    @property
    def content(self) -> str:
        """The content of its reservation files."""
        return f"{self.container_id.strip(GO_SPACE)}{SEPARATOR}{self.ifname}"

    @property
    def old_content(self) -> str:
        """The same as host-local once wrote it, without the interface; such files still count for every interface."""
        return self.container_id.strip(GO_SPACE)


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease as stored: `name` is the address as Go spells it, `content` the holder's.

    `boot` is the ID of the boot in which it was made or first seen, empty if unknown. `created_s` is CLOCK_BOOTTIME
    when it was made, None if it was not ours. `owner` is the pod, `namespace/name`, empty if unknown. `attached`: as
    Holder has it.
    """

    name: str
    content: str
    boot: str = ""
    created_s: float | None = None
    owner: str = ""
    attached: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    """A range set as `cni-py ipam show` remembers it: `ranges` as `a-b,c-d`, and how many addresses it can give."""

    ranges: str
    size: int

"""Addresses as Go's `net` package reads and spells them, because reservation files are named by its spelling.

Differences from `ipaddress`: an IPv4-mapped IPv6 address is the IPv4 address, a zone (`fe80::1%eth0`) is no address, a
prefix is a number (never a netmask) and is required. Spelling agrees otherwise (RFC 5952).
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address


def parse_ip(text: str) -> IPAddress | None:
    """The address in `text` as `net.ParseIP` reads it, None where that gives nil."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        if "%" in text:
            return None
        address = IPv6Address(text)
    except AddressValueError:
        return None
    return address.ipv4_mapped or address


def parse_cidr(text: str) -> tuple[IPAddress, int, int] | None:
    """(address, prefix length, bits of the mask) as `net.ParseCIDR` reads `text`, None where that fails.

    The address keeps its host bits. For an IPv4-mapped address the mask has 128 bits though the address has 32: Go
    keeps that mismatch, and host-local refuses it later.
    """
    head, slash, tail = text.partition("/")
    address = parse_ip(head)
    if not slash or address is None or not (tail.isascii() and tail.isdigit() and len(tail) < 8):
        return None
    bits = 128 if ":" in head else 32
    length = int(tail)
    return (address, length, bits) if length <= bits else None


def spell(number: int, version: int) -> str:
    """The name of the reservation file of an address: `net.IP.String()`."""
    if version == 4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    address = IPv6Address(number)
    return str(address.ipv4_mapped or address)

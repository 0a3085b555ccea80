"""Netlink attributes as pyroute2 writes them, to compare ours with."""

import struct


def plain(attributes: bytes) -> bytes:
    """Attributes without the nested flag (0x8000), which the kernel asks for since 5.2 and pyroute2 does not set."""
    found = b""
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        value = attributes[4:length]
        if kind & 0x8000:
            value = plain(value)
        padded = (length + 3) & ~3
        found += struct.pack("=HH", length, kind & 0x7FFF) + value + attributes[length:padded]
        attributes = attributes[padded:]
    return found

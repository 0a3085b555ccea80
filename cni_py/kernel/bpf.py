"""Classic BPF for netlink listeners: programs as tuples, and the one that passes on only what others did.

linux/bpf_common.h. A program returns how many bytes of a message are heard, so 0 for one that is not.
"""

import struct
from collections.abc import Sequence

# Code, jump if true, jump if false, constant.
Instruction = tuple[int, int, int, int]

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
EQUAL, ANY_BIT, JUMP, RETURN = 0x15, 0x45, 0x05, 0x06
PASSED, DROPPED = (RETURN, 0, 0, 0xFFFFFFFF), (RETURN, 0, 0, 0)
TYPE, SENDER = (LOAD_HALF, 0, 0, 4), (LOAD_WORD, 0, 0, 12)  # nlmsg_type, nlmsg_pid


def half(number: int) -> int:
    """16 bits in host order as BPF, which reads in network order, sees them."""
    return int(struct.unpack(">H", struct.pack("=H", number))[0])


def word(number: int) -> int:
    """32 bits, as `half`."""
    return int(struct.unpack(">I", struct.pack("=I", number))[0])


def not_from(ports: Sequence[int]) -> list[Instruction]:
    """Drop what the sockets of these ports did, and go on with all else. Several messages at once are of one sender."""
    return [SENDER, *(step for port in ports for step in ((EQUAL, 0, 1, word(port)), DROPPED))]

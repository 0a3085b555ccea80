"""What the kernel tells of its own accord: a socket that is a member of netlink groups and never waits.

An overflow (ENOBUFS) means that so much happened that some of it was not told; whoever listens then has to look.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cni_py.kernel.bpf import Instruction
from cni_py.kernel.netlink import messages

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER_BYTES = 4 << 20
_READ_BYTES = 1 << 16
_INSTRUCTION = struct.Struct("=HBBI")


class Listener:
    """Listens from its creation on, in the namespace that the thread is in.

    What `program` returns 0 for is not heard.
    """

    def __init__(self, protocol: int, groups: Sequence[int], program: Sequence[Instruction] = ()) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._lost = False
        try:
            with suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            if program:
                self.pass_only(program)
            self._socket.setblocking(False)  # noqa: FBT003  # the standard library's
            self._socket.bind((0, 0))
            for group in groups:
                with suppress(OSError):  # an older kernel knows fewer
                    self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise

    def pass_only(self, program: Sequence[Instruction]) -> None:
        """From now on that program decides what is heard."""
        code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in program))
        attached = struct.pack("@HP", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Nothing is heard any more."""
        self._socket.close()

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(type, payload) of what was told since the last reading."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                continue
            for kind, _, _, payload in messages(data, len(data)):
                yield kind, payload

    def overflowed(self) -> bool:
        """True if something was not told since the last question."""
        lost, self._lost = self._lost, False
        return lost


def link_exists(index: int) -> bool:
    """True if the thread's namespace has a link of that index."""
    try:
        socket.if_indextoname(index)
    except (OSError, OverflowError):
        return False
    return True

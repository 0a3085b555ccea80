"""A raw netlink socket and the packing of its messages: only `struct` and `socket`.

The kernel works through a request inside sendmsg(2) and queues its answers before that call returns (netlink(7)), so
several requests in one datagram cost one system call, and an answer that is not there after it will never come. Two
things follow. Acknowledgements that overflow the receive buffer are lost for good (ENOBUFS), hence the large buffers.
And a lock that somebody else holds (RTNL) is waited for in sendmsg, where no timeout applies; SO_RCVTIMEO bounds the
rest.
"""

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

# Flags of nlmsghdr.
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_ECHO = 0x008
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NLA_F_NESTED = 0x8000

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x010, 0x200
_NLA_TYPE_MASK = 0x3FFF
_NLMSGERR_ATTR_MSG, _NLMSGERR_ATTR_OFFS = 1, 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_FLAGS = struct.Struct("=H")
_SEQUENCE = struct.Struct("=I")
_LOW_FLAGS = 6 if sys.byteorder == "little" else 7  # where in a message the flags of all requests are, NLM_F_ACK too
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

_BUFFER_BYTES = 1 << 20
_LEAST_BUFFER_BYTES = 1 << 16  # what every socket has, by net.core.wmem_default
_READ_BYTES = 1 << 16  # a dump comes in parts of at most 32 KiB
_DEADLINE_S = 30
_DUMP_ATTEMPTS = 20


class NetlinkError(Exception):
    """The kernel refused one message. `index`: which of those sent, `text`: its extended ack, may be empty.

    `offset` is where in that message the kernel saw the fault, 0 when it did not say. `failed` has the errno
    of every one that was refused, by index: outside nfnetlink batches those before, between and after took effect.
    """

    def __init__(self, index: int, number: int, text: str = "", offset: int = 0) -> None:
        super().__init__(f"message {index}: {os.strerror(number)}" + (f": {text}" if text else ""))
        self.index = index
        self.errno = number
        self.text = text
        self.offset = offset
        self.failed = {index: number}


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    size = len(payload)
    return _ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """One attribute that holds others."""
    payload = b"".join(attributes)
    return _ATTRIBUTE.pack(len(payload) + 4, kind | NLA_F_NESTED) + payload


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A request of type `kind`; `NetlinkSocket` fills in the sequence number."""
    return _HEADER.pack(len(body) + 16, kind, flags | NLM_F_REQUEST, 0, 0) + body + _PADDING[len(body) & 3]


def with_flags(one: bytes, flags: int) -> bytes:
    """The same request with more flags."""
    return one[:6] + _FLAGS.pack(_FLAGS.unpack_from(one, 6)[0] | flags) + one[8:]


def iter_attrs(data: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute from `offset` on; stops at the first one that does not fit."""
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            return
        yield kind & _NLA_TYPE_MASK, bytes(data[offset + 4 : offset + size])
        offset += (size + 3) & ~3


def parse_attrs(data: bytes | memoryview, offset: int = 0) -> dict[int, bytes]:
    """{type: payload}; of a repeated type the last. Use `iter_attrs` for lists."""
    return dict(iter_attrs(data, offset))


class NetlinkSocket:
    """A socket in the network namespace that the thread is in when it is made; it stays there.

    One thread at a time. `buffer_bytes`: 0 for one that sends little. `messages_sent` and `seconds_in_kernel` (first
    send to last answer) add up over its life.
    """

    def __init__(self, protocol: int, deadline_s: int = _DEADLINE_S, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        self._send_bytes = _LEAST_BUFFER_BYTES
        self._buffer = bytearray(_READ_BYTES)
        self.messages_sent = 0
        self.seconds_in_kernel = 0.0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", deadline_s, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                with suppress(OSError):  # a kernel without one of them answers less well, not differently
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
            if buffer_bytes:
                self._force_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes)
                self._grow_send_buffer(buffer_bytes)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The socket is gone; the kernel keeps what was done through it."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The number by which the kernel names this socket as the author of a change."""
        return int(self._socket.getsockname()[0])

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def send_batch(self, messages: Sequence[bytes]) -> None:
        """Send all in one datagram and wait for the ack of the last that asks for one (NLM_F_ACK).

        The others need none: failures are told of any, and before it. Raises NetlinkError for the first that failed.
        Outside nfnetlink batches the kernel goes on after a failure and undoes nothing.
        """
        if not messages:
            return
        acknowledged = next((i for i in reversed(range(len(messages))) if messages[i][_LOW_FLAGS] & NLM_F_ACK), -1)
        first = self._send(messages, acknowledged)
        if acknowledged >= 0:
            self._await_ack(messages, first, acknowledged)

    def _await_ack(self, messages: Sequence[bytes], first: int, acknowledged: int) -> None:
        failed: NetlinkError | None = None
        refused: dict[int, int] = {}
        awaited = True
        while awaited:
            answers = self._receive(wait=failed is None)
            if answers is None:  # the kernel is done; what failed as a whole is answered once (nfnetlink batches)
                break
            for kind, flags, sequence, payload in answers:
                index = sequence - first
                if kind != _NLMSG_ERROR or not 0 <= index < len(messages):
                    continue
                awaited = awaited and index != acknowledged
                error = _error(index, flags, payload)
                if error is None:
                    continue
                refused[index] = error.errno
                if failed is None or error.index < failed.index:
                    failed = error
        if failed is not None:
            failed.failed = refused
            raise failed

    def request(self, one: bytes) -> list[bytes]:
        """The payloads (after nlmsghdr) that the kernel answers to a GET, a dump, or a change with NLM_F_ECHO.

        A dump that a change interrupted is repeated; NetlinkError with EINTR if it never comes out whole, which means
        that something changes without pause.
        """
        if _FLAGS.unpack_from(one, 6)[0] & NLM_F_DUMP != NLM_F_DUMP:
            one = with_flags(one, NLM_F_ACK)
        for _ in range(_DUMP_ATTEMPTS):
            payloads = self._answers(one)
            if payloads is not None:
                return payloads
        raise NetlinkError(0, errno.EINTR, "the list changed at every attempt to read it")

    def _answers(self, one: bytes) -> list[bytes] | None:
        """All answers to one request; None when they are no consistent whole."""
        awaited = self._send((one,))
        payloads: list[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in self._receive(wait=True) or ():
                if sequence != awaited:  # left over from a request that was given up
                    continue
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind not in (_NLMSG_ERROR, _NLMSG_DONE):
                    payloads.append(payload)
                    continue
                error = _error(0, flags, payload) if len(payload) >= 4 else None
                if error is not None and error.errno == errno.EINTR:
                    return None
                if error is not None:
                    raise error
                return payloads if whole else None

    def _send(self, messages: Sequence[bytes], acknowledged: int = 0) -> int:
        """Send, asking for the ack of one at most; returns the sequence number of the first, the others follow on."""
        first = self._sequence + 1
        if first + len(messages) > 0xFFFFFFFF:
            first = 1
        self._sequence = first + len(messages) - 1
        datagram = bytearray().join(messages)
        offset = 0
        number = first
        silent = ~NLM_F_ACK
        for one in messages:
            _SEQUENCE.pack_into(datagram, offset + 8, number)
            if number != first + acknowledged:
                datagram[offset + _LOW_FLAGS] &= silent
            number += 1
            offset += len(one)
        self._grow_send_buffer(len(datagram) + 4096)
        started = time.perf_counter()
        try:
            self._socket.sendto(datagram, (0, 0))
        except OSError as error:
            raise NetlinkError(0, error.errno or errno.EIO, f"sending {len(datagram)} bytes") from None
        finally:
            self.seconds_in_kernel += time.perf_counter() - started
        self.messages_sent += len(messages)
        return first

    def _receive(self, *, wait: bool) -> list[tuple[int, int, int, bytes]] | None:
        """(type, flags, sequence, payload) of the messages in one datagram; None if there is none and none is awaited.

        After ENOBUFS the socket still holds the earliest answers, in order, so reading simply goes on; when nothing
        is left then, the answer was lost, and that is the error.
        """
        overflowed = False
        started = time.perf_counter()
        try:
            while True:
                flags = 0 if wait and not overflowed else socket.MSG_DONTWAIT
                try:
                    size, _, flags, sender = self._socket.recvmsg_into([self._buffer], 0, flags)
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        overflowed = True
                        continue
                    if error.errno == errno.EAGAIN and not wait:
                        return None
                    lost = "answers were lost" if overflowed else f"no answer within {_DEADLINE_S} s"
                    raise NetlinkError(0, errno.ENOBUFS if overflowed else errno.ETIMEDOUT, lost) from None
                if flags & socket.MSG_TRUNC:
                    raise NetlinkError(0, errno.EMSGSIZE, f"an answer is larger than {len(self._buffer)} bytes")
                if sender[0] == 0:  # port 0 is the kernel; anybody may send to us, nobody else is believed
                    return messages(self._buffer, size)
        finally:
            self.seconds_in_kernel += time.perf_counter() - started

    def _grow_send_buffer(self, size: int) -> None:
        if size > self._send_bytes:
            self._force_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, size)
            self._send_bytes = size

    def _force_buffer(self, forced: int, polite: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:  # without CAP_NET_ADMIN the sysctl net.core.*mem_max is the limit
            self._socket.setsockopt(socket.SOL_SOCKET, polite, size)


def messages(buffer: bytes | bytearray, size: int) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of each message in the first `size` bytes."""
    found = []
    offset = 0
    while offset + 16 <= size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, offset)
        if length < 16 or offset + length > size:
            break
        found.append((kind, flags, sequence, bytes(buffer[offset + 16 : offset + length])))
        offset += (length + 3) & ~3
    return found


def _error(index: int, flags: int, payload: bytes) -> NetlinkError | None:
    """What a NLMSG_ERROR or NLMSG_DONE says, None for success."""
    number = -int(struct.unpack_from("=i", payload)[0])
    if number <= 0:
        return None
    # NETLINK_CAP_ACK: of the failed request only its header comes back, then the attributes of the extended ack.
    told = parse_attrs(payload, 20) if flags & _NLM_F_ACK_TLVS else {}
    text = told.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    offset = int.from_bytes(told.get(_NLMSGERR_ATTR_OFFS, b""), sys.byteorder)
    return NetlinkError(index, number, text, offset)

"""The warm agent of the measured side: started in the node's namespace, asked, weighed, ended."""

import array
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_py.kernel.netns import open_own
from cni_py.spec import frame

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 20.0


class Agent:
    """A running one."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def resident_mib(self) -> float:
        """Its resident set."""
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError("the agent is gone")

    def call_ms(self, name: str, environ: dict[str, str], stdin: bytes) -> float:
        """Milliseconds of one call from connecting to the whole answer, without a forwarder."""
        own = open_own()
        call = frame.pack_call(name, environ, stdin)
        try:
            started = time.perf_counter()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.connect(frame.SOCKET)
                peer.sendmsg([call], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [own]))])
                answer = b""
                while part := peer.recv(1 << 16):
                    answer += part
            elapsed = time.perf_counter() - started
        finally:
            os.close(own)
        header = frame.parse_header(answer)
        status = frame.parse_status(answer[frame.HEADER_BYTES :][: header.head])
        if status:
            raise ConnectionError(f"the agent answered {status}: {answer[frame.HEADER_BYTES + header.head :].decode()}")
        return elapsed * 1e3


@contextmanager
def running() -> Iterator[Agent]:
    """An agent in the namespace that this thread is in, for the length of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-agent-") as scratch,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(f"{scratch}/notify")
        notified.settimeout(_START_SECONDS)
        environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": f"{scratch}/notify"}
        process = subprocess.Popen(
            [ROOT / "bin/cni-py", "agent", "--roles", "attach"], env=environ, stderr=subprocess.DEVNULL
        )
        try:
            while b"READY=1" not in notified.recv(4096):
                pass
            yield Agent(process.pid)
        finally:
            process.terminate()
            process.wait(60)

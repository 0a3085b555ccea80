"""The process of which bench/policy measures how long a change takes: the role policy on a real API server and kernel.

It answers questions on stdin. The time of a change begins when the loop has read bytes of TLS and ends when the role
has taken the word of its source, which is when the kernel has it.
"""

import asyncio.sslproto
import gc
import json
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from bench.measure.policy_objects import LOCAL, OWN  # noqa: E402  # found through the line above
from cni_py.agent.policies import Policies  # noqa: E402  # as above
from cni_py.cluster.kube_access import KubeAccess  # noqa: E402  # as above
from cni_py.cluster.kube_policies import KubePolicies, Parsers  # noqa: E402  # as above
from cni_py.kernel.local_addresses import local_addresses  # noqa: E402  # as above
from cni_py.kernel.policy_table import PolicyTable  # noqa: E402  # as above
from cni_py.model.nft import Operation  # noqa: E402  # as above
from cni_py.model.policy import Changes  # noqa: E402  # as above
from cni_py.policy import objects  # noqa: E402  # as above


class Measured(Policies):
    """Tells of each change: when it was done, milliseconds since its bytes were read, and how much the kernel got."""

    read_at = 0.0
    operations = 0
    done: "SimpleQueue[dict[str, float]]" = SimpleQueue()

    def changed(self, changes: Changes) -> None:
        """See PolicySink."""
        Measured.operations = 0
        super().changed(changes)
        now = time.monotonic()
        self.done.put({"at": now, "ms": (now - Measured.read_at) * 1e3, "operations": Measured.operations})


def watch_reads() -> None:
    """The time at which bytes of TLS were read last is known, and how many operations a transaction had."""
    taken, committed = asyncio.sslproto.SSLProtocol.buffer_updated, PolicyTable.commit

    def buffer_updated(self: Any, count: int) -> None:  # noqa: ANN401  # asyncio's own
        Measured.read_at = time.monotonic()
        taken(self, count)

    def commit(self: PolicyTable, operations: Sequence[Operation]) -> None:
        Measured.operations += len(operations)
        committed(self, operations)

    asyncio.sslproto.SSLProtocol.buffer_updated = buffer_updated  # type: ignore[method-assign]
    PolicyTable.commit = commit  # type: ignore[method-assign]


def main(url: str, directory: str) -> None:
    """Follow, and answer."""
    watch_reads()
    access = KubeAccess(url, OWN, "", ca=Path(directory, "ca.crt"), token=Path(directory, "token"))
    source = KubePolicies(access, Parsers(objects.pod, objects.namespace, objects.policy))
    role = Measured(OWN, (ip_network(LOCAL),), source, local_addresses, lambda *_: None, versions=(4,))
    begin, cpu = time.monotonic(), time.process_time()
    role.start(())
    gc.collect()
    gc.freeze()  # as the agent does
    for question in sys.stdin:
        answer: dict[str, Any]
        match question.strip():
            case "first":
                first = role.done.get()
                answer = {"seconds": first["at"] - begin, "cpu": time.process_time() - cpu}
                answer |= {"pods": len(role.index.pods), "policies": len(role.index.policies)}
            case _:
                answer = dict(role.done.get())
        print(json.dumps(answer), flush=True)
    role.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

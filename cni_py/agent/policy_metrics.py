"""What the role `policy` says of itself: to whoever asks for the status, and to Prometheus."""

from collections.abc import Iterator
from dataclasses import dataclass

from cni_py.agent.peer_metrics import Family


@dataclass(frozen=True, slots=True)
class Standing:
    """How things are. `last_ms`: of the last change, from its word until the kernel had it."""

    synced: bool = False
    pods: int = 0
    local: int = 0
    policies: int = 0
    namespaces: int = 0
    chains: int = 0
    changes: int = 0
    last_ms: float = 0.0


def families(now: Standing) -> Iterator[Family]:
    """The families; the labels have few values, whatever the cluster holds."""
    objects: dict[tuple[str, ...], float] = {
        ("pods",): now.pods,
        ("policies",): now.policies,
        ("namespaces",): now.namespaces,
    }
    yield Family("cnipy_policy_synced", "1 once what the source says is in the kernel.", (), {(): float(now.synced)})
    yield Family("cnipy_policy_objects", "Objects of the cluster that are known.", ("kind",), objects)
    yield Family("cnipy_policy_local_pods", "Pods of this node in the policy table.", (), {(): now.local})
    yield Family("cnipy_policy_chains", "Chains in the table, one a distinct list of policies.", (), {(): now.chains})
    yield Family("cnipy_policy_changes_total", "Changes that the source told of.", (), {(): now.changes})
    yield Family(
        "cnipy_policy_last_change_seconds",
        "From the last word of the source until the kernel had it.",
        (),
        {(): now.last_ms / 1e3},
    )

"""Which flows would have another verdict if a cluster's policies were others."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from cni_py.model.policy import Address, Cluster, Flow, Policy
from cni_py.policy.verdict import NOBODY, Judgement, judge


@dataclass(frozen=True, slots=True)
class Turned:
    """A flow with another verdict than before."""

    before: Judgement
    after: Judgement


def what_if(
    cluster: Cluster,
    policies: Mapping[str, Policy | None],
    flows: Iterable[Flow],
    local: AbstractSet[Address] = NOBODY,
) -> tuple[Turned, ...]:
    """The flows that would have another verdict with these policies, by key (None: without it); each flow once."""
    now = {key: one for key, one in {**cluster.policies, **policies}.items() if one is not None}
    changed = replace(cluster, policies=now)
    judged = (Turned(judge(cluster, flow, local), judge(changed, flow, local)) for flow in dict.fromkeys(flows))
    return tuple(one for one in judged if one.before.verdict != one.after.verdict)

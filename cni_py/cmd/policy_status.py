"""How the role `policy` stands: what is known, whether the kernel has it, what is not as it should be."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cni_py.cmd.policy_role import PolicyRole

_MOST = 1_000


def standing(role: "PolicyRole") -> dict[str, Any]:
    """As JSON has it; `closed` are policies of which something was not understood, by their names."""
    policies = role.policies
    return {**asdict(policies.standing()), "conditions": policies.conditions.report()[:_MOST]}


def render(found: dict[str, Any]) -> list[str]:
    """Lines of text."""
    state = "in the kernel" if found["synced"] else "not known yet: pods are not started"
    lines = [
        f"policies  {found['policies']} of {found['namespaces']} namespaces, {state}",
        f"          {found['pods']} pods, {found['local']} of this node, {found['chains']} chains",
        f"          {found['changes']} changes, the last took {found['last_ms']} ms",
    ]
    return [*lines, *(f"          ! {one['name']}: {one['text']}" for one in found["conditions"])]

"""The same policies in the layout of kube-router's nftables mode (v2, 2026), as text for `nft -f`, IPv4 alone.

A chain for each policy, whose rules mark what they allow; sets of its own for each of its rules; a chain for each pod
of the node, that runs through the chains of its policies and refuses what none has marked; and in the base chains five
rules for each pod, two of them in forward, one after another. It writes each policy and each pod by an nft of its own.
"""

from collections.abc import Iterable, Iterator

from cni_py.model.policy import DIRECTIONS, PROTOCOL_NAMES, IpBlock, Pod, Pods, Policy, Port, Rule
from cni_py.policy.index import Index, subject

_ALLOWED, _PASSED = 0x10000, 0x20000


def base() -> str:
    """What stands."""
    hooks = "".join(
        f"add chain ip linear {one} {{ type filter hook {one} priority filter; }}\n"
        for one in ("forward", "input", "output")
    )
    return (
        f"add table ip linear\n{hooks}add chain ip linear common\n"
        "add rule ip linear common ct state invalid counter drop\n"
        "add rule ip linear common ct state established,related counter accept\n"
        "add rule ip linear common icmp type { echo-request, destination-unreachable, time-exceeded } counter accept\n"
        f"add chain ip linear default\nadd rule ip linear default counter meta mark set meta mark or {_ALLOWED:#x}\n"
    )


def of_policy(index: Index, policy: Policy) -> str:
    """One policy's chain and sets."""
    number = policy.name.rpartition("-")[2]
    chain, lines = f"policy-{number}", []
    lines.append(f"add chain ip linear {chain}")
    lines += _set(f"to-{number}", _addresses(index, [subject(policy)]))
    for direction, rules in (("ingress", policy.ingress), ("egress", policy.egress)):
        for at, rule in enumerate(rules or ()):
            lines += _rule(index, chain, f"{number}-{direction}-{at}", direction, rule)
    return "\n".join(lines) + "\n"


def of_pod(index: Index, pod: Pod) -> str:
    """One pod's chain, and the rules that lead there."""
    address, chain = next(str(one) for one in pod.addresses if one.version == 4), f"pod-{pod.uid[-12:]}"
    names = {one.name for direction in DIRECTIONS for one in index.policies_of(pod.key, direction)[0]}
    rules = [
        "counter jump common",
        f"fib saddr type local ip daddr {address} counter accept",
        *(f"counter jump policy-{one.rpartition('-')[2]}" for one in sorted(names)),
    ]
    if not names:
        rules += [f"ip {end} {address} counter jump default" for end in ("saddr", "daddr")]
    rules += [
        f"meta mark and {_ALLOWED:#x} == 0x0 limit rate 10/minute burst 10 packets log group 100",
        f"meta mark and {_ALLOWED:#x} == 0x0 counter reject",
        f"meta mark set meta mark and {0xFFFFFFFF ^ _ALLOWED:#x}",
        f"meta mark set meta mark or {_PASSED:#x}",
    ]
    lines = [f"add chain ip linear {chain}", *(f"add rule ip linear {chain} {one}" for one in rules)]
    lines += [f"add rule ip linear {one} ip daddr {address} counter jump {chain}" for one in ("forward", "output")]
    lines += [
        f"add rule ip linear {one} ip saddr {address} counter jump {chain}" for one in ("forward", "input", "output")
    ]
    return "\n".join(lines) + "\n"


def _rule(index: Index, chain: str, name: str, direction: str, rule: Rule) -> Iterator[str]:
    """Pods and blocks have a rule each; ports by number, ports by name."""
    target = f"ip {'daddr' if direction == 'ingress' else 'saddr'} @to-{name.partition('-')[0]}"
    far = "saddr" if direction == "ingress" else "daddr"
    ways = [""] if rule.peers is None else []
    pods = [one for one in rule.peers or () if isinstance(one, Pods)]
    if pods:
        yield from _set(f"from-{name}", _addresses(index, pods))
        ways.append(f"ip {far} @from-{name} ")
    blocks = [one.cidr for one in rule.peers or () if isinstance(one, IpBlock)]
    if blocks:
        yield from _set(f"block-{name}", map(str, blocks), interval=True)
        ways.append(f"ip {far} @block-{name} ")
    end = f"counter meta mark set meta mark or {_ALLOWED:#x} return"
    for way in ways:
        for port in (None,) if rule.ports is None else rule.ports:
            yield f"add rule ip linear {chain} {way}{target} {_port(port)}{end}"


def _port(port: Port | None) -> str:
    if port is None:
        return ""
    number = 8080 if port.name else port.first  # all pods of the benchmark give the name to that one
    return f"{PROTOCOL_NAMES[port.protocol].lower()} dport {number} "


def _set(name: str, elements: Iterable[str], *, interval: bool = False) -> list[str]:
    flags = " flags interval;" if interval else ""
    lines = [f"add set ip linear {name} {{ type ipv4_addr;{flags} }}"]
    if found := sorted(elements):
        lines.append(f"add element ip linear {name} {{ {', '.join(found)} }}")
    return lines


def _addresses(index: Index, selectors: Iterable[Pods]) -> set[str]:
    return {
        str(one) for pods in selectors for member in index.members(pods) for one in member.addresses if one.version == 4
    }

"""An explanation for people, and for programs as plain values that JSON takes."""

from collections.abc import Iterable, Iterator

from cni_py.model.policy import PROTOCOL_NAMES, Direction, Flow, Pod
from cni_py.policy.amendment import Amendment
from cni_py.policy.explain import Candidate, Explanation, Fit, Half
from cni_py.policy.plain import printable
from cni_py.policy.rules import PEERS_FIELD

_MOST_SHOWN = 5  # peers or ports of a rule


def text(explanation: Explanation, amendments: Iterable[Amendment]) -> Iterator[str]:
    """Lines: the verdict, who decided, what each rule failed by, and what would allow it."""
    flow = explanation.judgement.flow
    source, destination = explanation.ingress.peer, explanation.egress.peer
    yield (
        f"{explanation.judgement.verdict}: {_traffic(flow)}"
        f" from {_end(str(flow.source), source)} to {_end(str(flow.destination), destination)}"
    )
    for half in (explanation.egress, explanation.ingress):
        yield from _half(half)
    for amendment in amendments:
        yield f"it would be allowed {_after(amendment)}"
        yield from amendment.text().splitlines()


def plain(explanation: Explanation, amendments: Iterable[Amendment]) -> dict[str, object]:
    """The same, for `-o json`."""
    flow = explanation.judgement.flow
    return {
        "verdict": explanation.judgement.verdict,
        "source": str(flow.source),
        "destination": str(flow.destination),
        "protocol": PROTOCOL_NAMES.get(flow.protocol, flow.protocol),
        "port": flow.port,
        "egress": _plain_half(explanation.egress),
        "ingress": _plain_half(explanation.ingress),
        "amendments": [
            {"namespace": one.namespace, "name": one.name, "path": one.path, "value": one.value} for one in amendments
        ],
    }


def _traffic(flow: Flow) -> str:
    name = PROTOCOL_NAMES.get(flow.protocol, f"protocol {flow.protocol}")
    return f"{name} {flow.port}" if flow.port else name


def _end(address: str, pod: Pod | None) -> str:
    return address if pod is None else f"{address} (pod {pod.key})"


def _after(amendment: Amendment) -> str:
    return f"by `kubectl -n {amendment.namespace} patch networkpolicy {amendment.name} --type=json -p ...`:"


def _half(half: Half) -> Iterator[str]:
    side = half.side
    if half.subject is None:
        yield f"{side.direction}: allow, as no pod's policies are asked"
        return
    head = f"{side.direction} of {half.subject.key}: {side.verdict}"
    if not half.candidates:
        yield f"{head}, as no policy restricts it"
    elif side.allowed_by:
        yield f"{head}, by {', '.join(f'{key} rule {place}' for key, place in side.allowed_by)}"
    else:
        yield f"{head}, as no rule of {', '.join(side.policies)} allows it"
    for candidate in half.candidates:
        yield from _candidate(candidate, half)


def _candidate(candidate: Candidate, half: Half) -> Iterator[str]:
    how = "" if not candidate.audit else ", in audit" + ("" if candidate.counts else ": others are in force")
    yield f"  {candidate.policy.key}{how}" + ("" if candidate.fits else ": it has no rules")
    for flaw in candidate.policy.flaws:
        yield f"    not understood: {flaw}"
    for fit in candidate.fits:
        near = " (the nearest miss)" if fit is half.nearest else ""
        yield f"    rule {fit.place}: {_terms(fit, half.side.direction)}{near}"


def _terms(fit: Fit, direction: Direction) -> str:
    if not fit.failed:
        return "allows it"
    peer = f"not {PEERS_FIELD[direction]} {_listed(fit.rule.peers or ())}"
    terms = {"peer": peer, "port": f"not {_listed(fit.rule.ports or ())}"}
    return ", and ".join(terms[one] for one in fit.failed)


def _listed(values: Iterable[object]) -> str:
    """Some, and how many more there are; only what a terminal prints."""
    texts = list(map(str, values))
    shown = [printable(one) for one in texts[:_MOST_SHOWN]]
    more = len(texts) - len(shown)
    return " or ".join([*shown, *([f"{more} more"] if more else [])]) or "anything that was understood"


def _plain_half(half: Half) -> dict[str, object]:
    return {
        "verdict": half.side.verdict,
        "pod": half.side.pod or None,
        "peer": half.peer.key if half.peer is not None else None,
        "policies": [
            {
                "policy": one.policy.key,
                "audit": one.audit,
                "counts": one.counts,
                "flaws": list(one.policy.flaws),
                "rules": [{"failed": list(fit.failed), "nearest": fit is half.nearest} for fit in one.fits],
            }
            for one in half.candidates
        ],
    }

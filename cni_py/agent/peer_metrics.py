"""What probes tell, as families of metrics whose number does not grow without bound.

Each peer has series of its own as long as there are few; of many only those with a problem have, and quantiles over all
tell the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cni_py.overlay.liveness import Health

MOST = 500  # peers with series of their own
_QUANTILES = (0.5, 0.9, 0.99)
_WAYS = ("underlay", "overlay")


@dataclass(frozen=True, slots=True)
class Peers:
    """All that are probed, and how many datagrams came to nothing, by the reason."""

    health: Sequence[Health]
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """What has one name, by the values of its labels; a counter if the name ends in `_total`, else a gauge."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


def families(peers: Peers) -> Iterator[Family]:
    """Of this moment."""
    health = peers.health
    own = health if len(health) <= MOST else [one for one in health if one.problem][:MOST]
    wrong = sum(1 for one in health if one.problem)
    unknown = sum(1 for one in health if not one.problem and all(loss is None for loss in one.loss.values()))
    yield Family(
        "cnipy_peers",
        "Peers that are probed, by what the probes tell.",
        ("state",),
        {("ok",): len(health) - wrong - unknown, ("problem",): wrong, ("unknown",): unknown},
    )
    yield Family(
        "cnipy_peer_rtt_seconds",
        "Smoothed round-trip time of probes; of more than 500 peers only for those with a problem.",
        ("peer", "path"),
        {(one.name, way): rtt for one in own for way, rtt in one.rtt.items() if rtt is not None},
    )
    yield Family(
        "cnipy_peer_loss_ratio",
        "Share of the last 20 probes that were lost; of more than 500 peers only for those with a problem.",
        ("peer", "path"),
        {(one.name, way): loss for one in own for way, loss in one.loss.items() if loss is not None},
    )
    yield Family(
        "cnipy_peer_path_mtu_bytes",
        "The largest packet of pods that arrives; of more than 500 peers only for those with a problem.",
        ("peer",),
        {(one.name,): one.path_mtu for one in own if one.path_mtu is not None},
    )
    yield Family(
        "cnipy_peers_rtt_seconds",
        "Quantiles of all peers' smoothed round-trip times.",
        ("path", "quantile"),
        {(way, str(share)): value for way in _WAYS for share, value in _quantiles(health, way)},
    )
    yield Family(
        "cnipy_peers_loss_ratio",
        "Mean of all peers' shares of lost probes.",
        ("path",),
        {(way,): sum(found) / len(found) for way in _WAYS if (found := _known([one.loss for one in health], way))},
    )
    yield Family(
        "cnipy_probes_ignored_total",
        "Datagrams at the port of probes that came to nothing since the start, by the reason.",
        ("reason",),
        {(reason,): count for reason, count in peers.ignored.items()},
    )


def _quantiles(health: Sequence[Health], way: str) -> Iterator[tuple[float, float]]:
    found = sorted(_known([one.rtt for one in health], way))
    for share in _QUANTILES if found else ():
        yield share, found[min(int(share * len(found)), len(found) - 1)]


def _known(by_way: Sequence[Mapping[str, float | None]], way: str) -> list[float]:
    return [value for one in by_way if (value := one.get(way)) is not None]

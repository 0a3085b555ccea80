"""What Prometheus reads, and that what callers make up does not become labels."""

from prometheus_client.parser import text_string_to_metric_families

from cni_py.agent.calls import Observed
from cni_py.agent.metrics import Metrics, Usage
from cni_py.agent.peer_metrics import MOST, Peers
from cni_py.overlay.liveness import Health


def call(command: str = "ADD", code: int = 0, seconds: float = 0.0009) -> Observed:
    """A call that is over."""
    return Observed("cni-py", command, "net", "c1", "eth0", code, "", seconds)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, *label values): value} as a scraper reads them."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_calls() -> None:
    """Each call counts by command and code, and in the histogram of its command."""
    metrics = Metrics("1.2.3", Usage)
    for one in (call(), call(), call(code=11), call("DEL", seconds=0.3)):
        metrics.called(one)
    seen = samples(metrics)
    assert seen["cnipy_cni_requests_total", "0", "ADD"] == 2
    assert seen["cnipy_cni_requests_total", "11", "ADD"] == 1
    assert seen["cnipy_cni_duration_seconds_count", "ADD"] == 3
    assert seen["cnipy_cni_duration_seconds_bucket", "ADD", "0.001"] == 3
    assert seen["cnipy_cni_duration_seconds_bucket", "DEL", "0.25"] == 0
    assert seen["cnipy_build_info", "1.2.3"] == 1


def test_labels_are_few() -> None:
    """A thousand made-up commands and codes are one series each."""
    metrics = Metrics("1", Usage)
    for number in range(1000):
        metrics.called(call(f"X{number}\n", number + 1000))
    seen = [key for key in samples(metrics) if key[0] == "cnipy_cni_requests_total"]
    assert ("cnipy_cni_requests_total", "other", "other") in seen
    assert len(seen) == 8


def test_usage_is_of_the_moment() -> None:
    """What is on disk is counted when it is asked for."""
    usage = Usage({"net": 3}, {"net": 254}, {"net": 2})
    metrics = Metrics("1", lambda: usage)
    seen = samples(metrics)
    assert [seen[f"cnipy_{name}", "net"] for name in ("ipam_allocated", "ipam_capacity", "attachments")] == [3, 254, 2]
    usage = Usage()
    assert not [key for key in samples(metrics) if key[-1] == "net"]


def test_upkeep() -> None:
    """What was repaired and collected, by kind, for Prometheus and for status."""
    metrics = Metrics("1", Usage)
    metrics.repaired("nftables rules")
    metrics.collected("lease", 3)
    assert metrics.tallies() == ({"nftables rules": 1}, {"lease": 3})
    assert samples(metrics)["cnipy_collected_total", "lease"] == 3


def health(name: str, rtt: float | None = 0.002, problem: str = "") -> Health:
    """A peer that loses half of what goes through the tunnel."""
    return Health(name, {"underlay": 0.001, "overlay": rtt}, {"underlay": 0.0, "overlay": 0.5}, 1450, problem)


def test_peers() -> None:
    """Each has its series by the way; what is not known is no series."""
    metrics = Metrics("1", Usage, lambda: Peers([health("n2"), health("n3", None, "lost")], {"stranger": 3}))
    seen = samples(metrics)
    assert seen["cnipy_peer_rtt_seconds", "overlay", "n2"] == 0.002
    assert ("cnipy_peer_rtt_seconds", "overlay", "n3") not in seen
    assert seen["cnipy_peer_loss_ratio", "overlay", "n3"] == 0.5
    assert seen["cnipy_peer_path_mtu_bytes", "n2"] == 1450
    assert [seen["cnipy_peers", state] for state in ("ok", "problem", "unknown")] == [1, 1, 0]
    assert seen["cnipy_probes_ignored_total", "stranger"] == 3


def test_many_peers_are_few_series() -> None:
    """Of 5,000 only those with a problem are named, all count in the quantiles."""
    many = [health(f"n{number}", number / 1e3, "lost" if number < 2 * MOST else "") for number in range(5000)]
    seen = samples(Metrics("1", Usage, lambda: Peers(many)))
    assert len(seen) < 5 * MOST + 200
    assert ("cnipy_peer_loss_ratio", "overlay", "n4000") not in seen
    assert ("cnipy_peer_loss_ratio", "overlay", "n7") in seen
    assert seen["cnipy_peers_rtt_seconds", "overlay", "0.99"] == 4.95
    assert seen["cnipy_peers_loss_ratio", "overlay"] == 0.5


def test_no_role_overlay_no_peers() -> None:
    """An agent of the role attach alone tells nothing of them."""
    assert not [key for key in samples(Metrics("1", Usage, lambda: None)) if "peer" in key[0]]

"""What Prometheus is told of the agent. Recording is cheap; what is on disk is counted when somebody asks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cni_py.agent import policy_metrics
from cni_py.agent.calls import Observed
from cni_py.agent.peer_metrics import Family, Peers, families
from cni_py.agent.policy_metrics import Standing
from cni_py.spec.codes import CODE

if TYPE_CHECKING:
    from cni_py.agent.drops import Drop

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
OTHER = "other"  # what a caller makes up is no label of its own

_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
T = TypeVar("T")
_CODES = frozenset((0, *CODE.values()))


@dataclass(frozen=True, slots=True)
class Usage:
    """What there is of each network at one moment: addresses given and that can be given, attachments."""

    allocated: Mapping[str, int] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    attachments: Mapping[str, int] = field(default_factory=dict)


class Metrics:
    """The agent's metrics; any thread may call all methods. `usage` and `peers` are asked at each exposition."""

    def __init__(
        self,
        version: str,
        usage: Callable[[], Usage],
        peers: Callable[[], Peers | None] | None = None,
        policies: Callable[[], Standing | None] | None = None,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        Info("cnipy_build", "The release that runs.", registry=registry).info({"version": version})
        requests = Counter(
            "cnipy_cni_requests_total",
            "Calls that were answered, by CNI_COMMAND and by the code of the error, 0 for none.",
            ("command", "code"),
            registry=registry,
        )
        durations = Histogram(
            "cnipy_cni_duration_seconds",
            "From when a call was read until it was answered.",
            ("command",),
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self._repairs = Counter(
            "cnipy_repairs_total", "What was found changed and was mended.", ("what",), registry=registry
        )
        self._collected = Counter(
            "cnipy_collected_total",
            "What belonged to no living container and was removed.",
            ("what",),
            registry=registry,
        )
        self._dropped = Counter(
            "cnipy_policy_logged_packets_total",
            "Packets that policies denied and the kernel told of, which it does of some.",
            ("direction", "verdict"),
            registry=registry,
        )
        names = (*COMMANDS, OTHER)
        self._durations = {command: durations.labels(command) for command in names}
        self._requests = {command: _ByCode(requests, command) for command in names}
        registry.register(_OnDisk(usage))
        if peers is not None:
            registry.register(_Families(lambda: _each(peers, families)))
        if policies is not None:
            registry.register(_Families(lambda: _each(policies, policy_metrics.families)))

    def called(self, call: Observed) -> None:
        """One more call is over."""
        command = call.command if call.command in self._requests else OTHER
        self._requests[command][call.code].inc()
        self._durations[command].observe(call.seconds)

    def repaired(self, what: str, n: int = 1) -> None:
        """`n` things of that kind were mended."""
        self._repairs.labels(what).inc(n)

    def dropped(self, drop: "Drop") -> None:
        """A packet was denied, or would have been."""
        self._dropped.labels(drop.direction, "audit" if drop.audit else "drop").inc()

    def collected(self, what: str, n: int = 1) -> None:
        """`n` things of that kind were removed."""
        self._collected.labels(what).inc(n)

    def tallies(self) -> tuple[dict[str, int], dict[str, int]]:
        """({what: repairs}, {what: collections}) so far."""
        return _values(self._repairs), _values(self._collected)

    def exposition(self) -> bytes:
        """All of it, of type CONTENT_TYPE."""
        return generate_latest(self._registry)


class _ByCode(dict[int, Counter]):
    """The counters of one command; one of a code that we know is made when it first occurs."""

    def __init__(self, requests: Counter, command: str) -> None:
        super().__init__()
        self._requests = requests
        self._command = command
        self[0] = requests.labels(command, "0")

    def __missing__(self, code: int) -> Counter:
        if code not in _CODES:  # a delegated plugin's own: it may give any
            return self._requests.labels(self._command, OTHER)
        self[code] = made = self._requests.labels(self._command, str(code))
        return made


class _OnDisk(Collector):
    def __init__(self, usage: Callable[[], Usage]) -> None:
        self._usage = usage

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that the registry does not go to the disk when it is put together."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """The gauges of this moment."""
        usage = self._usage()
        for name, meaning, values in (
            ("cnipy_ipam_allocated", "Addresses that are leased.", usage.allocated),
            ("cnipy_ipam_capacity", "Addresses that the pools of the last ADD can give.", usage.capacity),
            ("cnipy_attachments", "Attached interfaces of containers.", usage.attachments),
        ):
            gauge = GaugeMetricFamily(name, meaning, labels=("network",))
            for network, value in values.items():
                gauge.add_metric((network,), value)
            yield gauge


class _Families(Collector):
    def __init__(self, now: Callable[[], Iterable[Family]]) -> None:
        self._now = now

    def describe(self) -> Iterator[Metric]:
        """Nothing, as there is nothing yet to ask."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        for family in self._now():
            kind = CounterMetricFamily if family.name.endswith("_total") else GaugeMetricFamily
            made = kind(family.name, family.meaning, labels=family.labels)
            for labels, value in family.values.items():
                made.add_metric(labels, value)
            yield made


def _each(ask: Callable[[], T | None], told: Callable[[T], Iterable[Family]]) -> Iterable[Family]:
    """What is told of the answer, nothing where there is none."""
    answer = ask()
    return told(answer) if answer is not None else ()


def _values(counter: Counter) -> dict[str, int]:
    return {
        sample.labels["what"]: int(sample.value)
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }

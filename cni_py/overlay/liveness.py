"""What probes tell of a peer: round-trip time, loss, and in words what is wrong with the way to it.

A tunnel that nothing comes out of looks to pods like a dead peer. Probes on the underlay and through the tunnel at once
tell the two apart, and large ones beside small ones a path that takes less than pods send.
"""

from dataclasses import dataclass, field
from typing import Literal

from cni_py.overlay.path_sizes import PathSizes
from cni_py.overlay.probe_targets import Targets

LAST = 20  # probes over which loss is counted
SILENT = 3  # without an answer, one after another, are silence and not chance
LOSSY = 0.2
_SMOOTH = 8  # a new round-trip time counts an eighth, as TCP has it
_ENOUGH = 10

# unknown: too early to say. refused: the peer's kernel answers that nobody listens. unreachable: somebody says that
# there is no way. unsent: this node's own kernel would not send.
State = Literal["unknown", "answers", "silent", "refused", "unreachable", "unsent"]
Fault = Literal["refused", "unreachable", "unsent"]


@dataclass(slots=True)
class Track:
    """What came of the last small probes of one way to a peer."""

    rtt: float | None = None  # smoothed, in seconds
    heard: float = 0.0  # when the peer last asked us this way, in monotonic seconds
    why: str = ""  # the words that came with the last fault
    _bits: int = 0
    _counted: int = 0
    _missing: int = 0
    _answering: bool = False
    _fault: Fault | None = None
    _fault_at: int = 0

    def answered(self, rtt: float) -> None:
        """One was, after so many seconds."""
        self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / _SMOOTH
        self._missing, self._answering, self._fault = 0, True, None
        self._count(1)

    def missed(self, fault: Fault | None = None, why: str = "") -> None:
        """One was not. One that the peer's kernel refused has arrived, so it is no loss."""
        self._missing += 1
        if fault is not None:
            self._fault, self._fault_at, self.why = fault, self._missing, why
        if fault != "refused":
            self._count(0)
        if self._missing >= SILENT:
            self.rtt, self._answering = None, False

    @property
    def loss(self) -> float | None:
        """The share of the last probes that were lost; None before there was any."""
        return 1 - self._bits.bit_count() / self._counted if self._counted else None

    @property
    def state(self) -> State:
        """How it stands. Refusals are few by nature (kernels limit them), so one counts for a while."""
        if self._missing < SILENT:
            return "answers" if self._answering else "unknown"
        recent = self._fault is not None and self._missing - self._fault_at < SILENT
        return self._fault if recent and self._fault else "silent"

    @property
    def passes(self) -> bool:
        """True if the last one was answered."""
        return self._answering and not self._missing

    @property
    def lossy(self) -> bool:
        """True if so many are lost that it is no chance."""
        return self._counted >= _ENOUGH and (self.loss or 0) >= LOSSY

    def _count(self, bit: int) -> None:
        self._bits = (self._bits << 1 | bit) & ((1 << LAST) - 1)
        self._counted = min(self._counted + 1, LAST)


@dataclass(slots=True)
class Sight:
    """All that is known of the way to one peer. `fresh`: since which moment what the peer asks counts as of now."""

    targets: Targets
    sizes: PathSizes
    under: Track = field(default_factory=Track)
    over: Track = field(default_factory=Track)

    def diagnose(self, fresh: float) -> str:
        """What is wrong, in words; "" if nothing is, or it is too early to say."""
        where = self.targets
        if where.over is None:
            return self._without_tunnel(fresh)
        match self.under.state, self.over.state:
            case "answers", "answers":
                return self._sizes() or self._loss()
            case "answers", "silent":
                return self._black_hole(fresh)
            case "answers", "refused":
                return (
                    f"UDP port {where.port} of {where.over.target} is refused through the tunnel, though its agent runs"
                )
            case _, ("unreachable" | "unsent") if self.under.state in {"answers", "refused"}:
                return f"nothing can be sent through the tunnel to {where.over.target}: {self.over.why}"
            case "refused", "silent":
                return f"{self._no_agent()}; {self._black_hole(fresh)}"
            case ("refused", _) | (_, "refused"):
                return self._no_agent()
            case "silent" | "unreachable" | "unsent", "answers":
                return (
                    f"UDP port {where.port} of {where.under.target} does not answer on the underlay (filtered?), "
                    f"but the tunnel carries"
                )
            case (_, "unknown") | ("unknown", _):
                return ""
        return self._gone(fresh)

    def _without_tunnel(self, fresh: float) -> str:
        match self.under.state:
            case "unknown":
                return ""
            case "answers":
                return self._sizes() or self._loss()
            case "refused":
                return self._no_agent()
        return self._gone(fresh)

    def _black_hole(self, fresh: float) -> str:
        where = self.targets
        port = f"UDP port {where.tunnel_port} of {where.under.target}"
        if self.over.heard >= fresh:
            return f"{where.tunnel} packets to {port} are lost, those from it arrive: is the port filtered there?"
        return f"{where.tunnel} packets to {port} do not come through: is the port filtered?"

    def _no_agent(self) -> str:
        where = self.targets
        return f"its agent does not run: {where.under.target} refuses UDP port {where.port}"

    def _gone(self, fresh: float) -> str:
        where, under = self.targets, self.under
        if under.state == "unsent":
            return f"nothing can be sent to {where.under.target}: {under.why}"
        if max(under.heard, self.over.heard) >= fresh:
            return (
                f"it asks, but does not answer: packets to UDP port {where.port} of {where.under.target} are lost"
                + (", also through the tunnel" if where.over else "")
            )
        if under.state == "unreachable":
            return f"unreachable: {where.under.target} is down or cut off ({under.why})"
        return f"unreachable: {where.under.target} answers no probe{', nor does the tunnel' if where.over else ''}"

    def _sizes(self) -> str:
        sizes, where = self.sizes, self.targets
        if sizes.lost is None:
            return ""
        if sizes.path is None:
            return f"packets of {sizes.lost} bytes are lost on the way, small ones pass; pods have {where.mtu}"
        less = f" ({where.tunnel} takes {where.overhead} of it)" if where.overhead else ""
        what = "do not fit the way, and its routers say so" if sizes.told else "are lost on the way"
        path = f"the path's MTU is {sizes.path + where.overhead}{less}"
        return f"packets of more than {sizes.path} bytes {what}: {path}, pods have {where.mtu}"

    def _loss(self) -> str:
        for track, way in ((self.under, "on the underlay"), (self.over, "through the tunnel")):
            if track.lossy:
                return f"{track.loss:.0%} of the packets are lost {way}"
        return ""


@dataclass(frozen=True, slots=True)
class Health:
    """What is told of one peer: seconds and shares by the way (`underlay`, `overlay`), None for what is not known."""

    name: str
    rtt: dict[str, float | None]
    loss: dict[str, float | None]
    path_mtu: int | None
    problem: str

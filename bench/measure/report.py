"""What was measured, beside its goal, as a table or as JSON."""

from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

HEAD = f"{'':<34}{'n':>5}{'ours min':>10}{'ours p50':>10}{'Go min':>10}{'Go p50':>10}{'ratio':>8}{'goal':>7}"


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of the same on both sides; the goal is how many times shorter our median should be."""

    name: str
    ours: list[float]
    theirs: list[float]
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """Their median by ours."""
        return median(self.theirs) / median(self.ours)

    def line(self) -> str:
        """A row of the table."""
        shown = (min(self.ours), median(self.ours), min(self.theirs), median(self.theirs))
        figures = "".join(f"{figure:>10.2f}" for figure in shown)
        goal = "" if self.goal is None else f"{self.goal:>7.4g}" + ("" if self.ratio >= self.goal else "  missed")
        return f"{self.name:<34}{len(self.ours):>5}{figures}{self.ratio:>8.1f}{goal}"

    def as_json(self) -> dict[str, Any]:
        """With percentiles in place of the samples."""
        sides = {"ours": _spread(self.ours), "theirs": _spread(self.theirs)}
        return {"name": self.name, "unit": "ms", **sides, "ratio": self.ratio, "goal": self.goal}


@dataclass(frozen=True)
class Figure:
    """One number, which should be at most `goal`."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    def line(self) -> str:
        """A row below the table."""
        goal = "" if self.goal is None else f"<={self.goal:>6.4g}" + ("" if self.value <= self.goal else "  missed")
        return f"{self.name:<61}{self.value:>9.2f} {self.unit:<5} {goal}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


Row = Comparison | Figure


def percentile(samples: list[float], which: int) -> float:
    """Of a hundred parts of the samples the last one of the first `which`."""
    return quantiles(samples, n=100, method="inclusive")[which - 1] if len(samples) > 1 else samples[0]


def _spread(samples: list[float]) -> dict[str, float]:
    points = {f"p{which}": percentile(samples, which) for which in (50, 95, 99)}
    return {"n": len(samples), "min": min(samples), **points}

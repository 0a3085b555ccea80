"""Which sizes of packets get to a peer: as a rule one probe of the largest, and when that is lost a bisection.

A size counts as lost when it was lost twice while small packets passed: chance alone is no MTU.
"""

from dataclasses import dataclass

_TRIES = 2


@dataclass(slots=True)
class PathSizes:
    """`wanted` is what pods may send, `least` what small probes have. All are bytes of IP packets.

    `passes` is the largest known to arrive, `lost` the smallest known not to. `told` is True if the kernel has heard
    of that from somebody on the way: then pods hear of it as well, and send less.
    """

    wanted: int
    least: int
    passes: int | None = None
    lost: int | None = None
    told: bool = False
    searching: bool = False
    _tries: int = 0

    @property
    def path(self) -> int | None:
        """The largest packet that arrives; None as long as that is not known."""
        return None if self.searching or self.passes is None else self.passes

    @property
    def suspicious(self) -> bool:
        """True if the next probe tells more than the last one did."""
        return self._tries > 0 or (self.passes is None and not self.searching)

    def check(self) -> tuple[int, ...]:
        """The sizes that show whether all is as it was; none while a search is on."""
        if self.searching:
            return ()
        known = self.passes
        return (self.wanted,) if known is None or known >= self.wanted else (self.wanted, known)

    def step(self) -> int | None:
        """The size that the search tries next; None if there is no search."""
        if not self.searching or self.passes is None or self.lost is None:
            return None
        return (self.passes + self.lost) // 2

    def arrived(self, size: int) -> None:
        """One of that size was answered."""
        if size >= self.wanted:
            self.passes, self.lost, self.told, self.searching, self._tries = self.wanted, None, False, False, 0
        elif self.searching and size == self.step():
            self.passes = size
            self._go_on()
        elif not self.searching:
            self._tries = 0

    def missed(self, size: int) -> None:
        """One of that size was not, though small ones are."""
        if self.searching:
            if size == self.step():
                self._count(size)
        elif size == self.passes or (size == self.wanted and self.lost is None):
            self._count(size)

    def _count(self, size: int) -> None:
        self._tries += 1
        if self._tries < _TRIES:
            return
        self.lost = size
        if not self.searching:
            self.passes, self.searching = self.least, True
        self._go_on()

    def _go_on(self) -> None:
        self._tries = 0
        if self.passes is not None and self.lost is not None and self.lost - self.passes <= 1:
            self.searching = False

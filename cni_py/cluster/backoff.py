"""How long to wait before the next attempt: twice as long each time, up to a limit, and never in step with others."""

import random


class Backoff:
    """From about `first` seconds to about `most`."""

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._now = first

    def next(self) -> float:
        """The next pause, half as long or half as much again by chance."""
        pause, self._now = self._now, min(self._now * 2, self._most)
        return pause * random.uniform(0.5, 1.5)  # noqa: S311  # it hides nothing, it spreads

    def reset(self) -> None:
        """All was well for long enough: the next pause is the first again."""
        self._now = self._first

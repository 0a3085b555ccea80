"""A sink that remembers, and waits for what a test wants to be told."""

import threading
import time
from collections.abc import Callable, Mapping

from cni_py.model.overlay import Node
from cni_py.model.peers import View

WAIT_S = 60
_LOOK_S = 0.05  # for what a test looks at besides


class Watcher:
    """See model.peers.Sink. `views` and `troubles` are all that came, in order."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self.views: list[View] = []
        self.troubles: list[str] = []

    def changed(self, view: View) -> None:
        """See Sink."""
        with self._news:
            self.views.append(view)
            self._news.notify_all()

    def trouble(self, reason: str) -> None:
        """See Sink."""
        with self._news:
            self.troubles.append(reason)
            self._news.notify_all()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """As it was told last."""
        return self.views[-1].nodes if self.views else {}

    @property
    def skipped(self) -> Mapping[str, str]:
        """As it was told last."""
        return self.views[-1].skipped if self.views else {}

    @property
    def reason(self) -> str:
        """What is the trouble now."""
        return self.troubles[-1] if self.troubles else ""

    def until(self, holds: Callable[["Watcher"], bool]) -> None:
        """It holds, or the test fails with what was told last. It is looked at again with all that is told."""
        deadline = time.monotonic() + WAIT_S
        with self._news:
            while not holds(self):
                assert time.monotonic() < deadline, (self.views[-1:], self.troubles[-3:])
                self._news.wait(_LOOK_S)

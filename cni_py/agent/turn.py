"""Who may go on: one call computes at a time, and the calls of one container come in their order.

Python threads that all want to compute hinder each other: 50 made an ADD cost 1.48 ms of time each, one 0.88. So a call
holds the turn while it works and gives it up only where it waits for something that may take long and that is not the
kernel: a foreign IPAM plugin, a file that another process has locked.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Turn:
    """The turn. A thread that holds it never waits for anybody who might be waiting for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.stand_in: Callable[[], AbstractContextManager[None]] = nullcontext

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else computes inside the block."""
        with self._lock:
            yield

    @contextmanager
    def released(self) -> Iterator[None]:
        """Others may compute while this thread waits inside the block; after it the turn is ours again.

        As long as it waits another thread takes calls in its stead (`stand_in`, the server's).
        """
        with self.stand_in():
            self._lock.release()
            try:
                yield
            finally:
                self._lock.acquire()


class Order:
    """One call of a container at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queues: dict[str, list[threading.Lock]] = {}

    @contextmanager
    def of(self, container_id: str, waiting: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """No earlier call of that container is still at work inside the block; it is waited for inside `waiting`."""
        mine = threading.Lock()
        mine.acquire()
        with self._guard:
            queue = self._queues.setdefault(container_id, [])
            before = queue[-1] if queue else None
            queue.append(mine)
        if before is not None:
            with waiting():
                before.acquire()  # released by its owner when that is done
        try:
            yield
        finally:
            with self._guard:
                queue.pop(0)
                if not queue:
                    del self._queues[container_id]
            mine.release()

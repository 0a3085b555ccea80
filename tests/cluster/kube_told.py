"""A reflector or a source under test, and what it tells, one after another."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from cluster.fake_api import WAIT_S, FakeApi

from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_api import KubeApi, Timing
from cni_py.cluster.reflector import Reflector, Unreadable

QUICK = Timing(first=0.01, most=0.05, connect=5.0, quiet=WAIT_S)


class Told:
    """What was told; it is waited for `seconds`. It is taken in order, or passed over up to what is wanted."""

    def __init__(self, seconds: float = WAIT_S) -> None:
        self._seconds = seconds
        self.news: queue.Queue[Any] = queue.Queue()
        self.troubles: queue.Queue[str] = queue.Queue()

    def changed(self, news: Any) -> None:
        """Something was told."""
        self.news.put(news)

    def trouble(self, reason: str) -> None:
        """Trouble was told."""
        self.troubles.put(reason)

    def next(self) -> Any:
        """What was told next."""
        return self.news.get(timeout=self._seconds)

    def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first news for which `wanted` is true."""
        while not wanted(news := self.next()):
            pass
        return news

    def troubled(self, text: str) -> str:
        """The first trouble with that text in it; "" is that it is over."""
        while True:
            reason = self.troubles.get(timeout=self._seconds)
            if text in reason if text else not reason:
                return reason


def access(api: FakeApi, name: str = "n1") -> KubeAccess:
    """As a Pod has it."""
    return KubeAccess(api.url, name, "test", ca=api.ca, token=api.token_file)


@contextmanager
def reflecting(api: FakeApi, timing: Timing = QUICK, most_bytes: int = 0) -> Iterator[Told]:
    """A reflector, in a loop of its own, that makes of a Node (uid, annotation "other" or "")."""
    told = Told()
    loop = asyncio.new_event_loop()

    def decode(_: str, raw: msgspec.Raw) -> tuple[str, str]:
        metadata = msgspec.json.decode(raw, type=_Object).metadata
        return metadata.uid, metadata.annotations.get("other", "")

    async def main() -> None:
        client = KubeApi(access(api), timing)
        reflector = Reflector(client, "/api/v1/nodes", decode, told.changed, told.trouble, timing)
        reflector.most_bytes = most_bytes or reflector.most_bytes
        try:
            await reflector.run()
        finally:
            await client.close()

    task = loop.create_task(main())

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        with suppress(RuntimeError):  # it ended by itself, of which the exception tells
            loop.call_soon_threadsafe(task.cancel)
        thread.join(WAIT_S)
        assert not thread.is_alive()


class _Metadata(msgspec.Struct):
    uid: str
    annotations: dict[str, str]


class _Object(msgspec.Struct):
    metadata: _Metadata


Changes = Mapping[str, tuple[str, str] | Unreadable | None]

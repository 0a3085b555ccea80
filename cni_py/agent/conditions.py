"""What is not as it should be, each under a name: logged when it begins, changes and ends, shown by `cni-py status`."""

import logging
import threading
import time
from collections.abc import Mapping

_LOG = logging.getLogger("cni_py.agent")
_MOST = 200


class Conditions:
    """Any thread may set and read."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._now: dict[str, tuple[str, float]] = {}

    def set(self, name: str, text: str) -> None:
        """That is so; "" if there is nothing to say under the name."""
        with self._guard:
            before = self._now.get(name, ("", 0.0))[0]
            if text == before:
                return
            if text:
                self._now[name] = text, time.time()
            else:
                del self._now[name]
        if text:
            _LOG.warning("%s: %s", name, text)
        else:
            _LOG.info("%s: as it should be again", name)

    def replace(self, prefix: str, texts: Mapping[str, str]) -> None:
        """All whose names begin so are these, {the rest of the name: text}."""
        with self._guard:
            stale = [name for name in self._now if name.startswith(prefix) and name.removeprefix(prefix) not in texts]
        for name in stale:
            self.set(name, "")
        for rest, text in list(texts.items())[:_MOST]:
            self.set(f"{prefix}{rest}", text)

    def report(self) -> list[dict[str, object]]:
        """Name, text and since when (seconds since the epoch), the oldest first."""
        with self._guard:
            found = sorted(self._now.items(), key=lambda one: one[1][1])
        return [{"name": name, "text": text, "since": round(since, 3)} for name, (text, since) in found]

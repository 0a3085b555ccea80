"""What the agent keeps of the attachment records, and how it sees that this still holds.

Who wrote last shows the directory's time: the agent sets it to a moment before 1970, which no kernel clock can give, so
as long as that stands nobody else was there (as `store.leases` does it for leases).
"""

import os

from cni_py.model.attachment import Attachment


class Memory:
    """What was read of the records' directories, and by which mark one sees that it still holds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], dict[str, Attachment]]] = {}

    def recall(self, directory: str) -> dict[str, Attachment] | None:
        """{file name: record} of a directory as it is now; None if that is not known."""
        entry = self._known.get(directory)
        if entry is None or entry[0] != _stamp(directory):
            return None
        return entry[1]

    def learn(self, directory: str, records: dict[str, Attachment]) -> None:
        """This is all that the directory holds; under the lock, or a change of somebody else could be missed."""
        self._known[directory] = ((0, 0), records)
        self.mark(directory)

    def mark(self, directory: str) -> None:
        """What is known of the directory is what it holds now."""
        moment = -(86400 + int.from_bytes(os.urandom(3), "big")) * 10**9
        try:
            os.utime(directory, ns=(moment, moment))
        except OSError:
            self._known.pop(directory, None)
            return
        self._known[directory] = (_stamp(directory), self._known[directory][1])


def _stamp(directory: str) -> tuple[int, int]:
    try:
        found = os.stat(directory)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino

"""The agent's log: one line each to stderr, in the same fields whoever writes, by a thread of its own.

A pipe that nobody reads holds up that thread alone; what does not fit into the queue meanwhile is dropped and counted.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from select import POLLOUT, poll

from cni_py.agent.calls import Observed

FORMATS = ("text", "json")
FIELDS = ("command", "network", "containerid", "ifname", "code", "took_ms", "msg")

_MOST_WAITING = 10_000
_LONGEST = 1000
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,\-\[\]]+", re.ASCII)
_CLOSE_SECONDS = 1.0


class Log(logging.Handler):
    """Takes the records of the standard library's loggers, and calls. `fd` stays the caller's."""

    def __init__(self, format_name: str, fd: int = 2) -> None:
        super().__init__()
        self._line = _as_json if format_name == "json" else _as_text
        self._fd = fd
        self._queue: queue.SimpleQueue[logging.LogRecord | tuple[float, Observed] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. Of `extra` come out those named in FIELDS."""
        self._put(record)

    def call(self, call: Observed) -> None:
        """A call is over: INFO, or WARNING if it failed."""
        self._put((time.time(), call))

    def stop(self) -> None:
        """What waits has been written, unless nobody reads it for a second."""
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, item: logging.LogRecord | tuple[float, Observed]) -> None:
        if self._queue.qsize() >= _MOST_WAITING:
            self.dropped += 1
        else:
            self._queue.put(item)

    def _write_all(self) -> None:
        told = 0
        while (item := self._queue.get()) is not None:
            if isinstance(item, logging.LogRecord):
                written = self._write(item.created, item.levelname, _fields_of_record(item))
            else:
                level = "WARNING" if item[1].code else "INFO"
                written = self._write(item[0], level, _fields_of_call(item[1]))
            self.dropped += not written
            if written and self.dropped > told:
                told = self.dropped
                self._write(
                    time.time(), "WARNING", {"msg": f"{told} lines of this log were dropped so far: it was not read"}
                )

    def _write(self, moment: float, level: str, fields: Mapping[str, object]) -> bool:
        """The line is out, or at least none of it; False for the latter."""
        rest = memoryview(self._line(moment, level, fields).encode("ascii"))
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # somebody else who has the same pipe wants it so
                    ready = poll()
                    ready.register(self._fd, POLLOUT)
                    ready.poll()
        except OSError:
            return False
        return True


def start(format_name: str) -> Log:
    """From here on all loggers of this process write to stderr through the log that is returned."""
    log = Log(format_name)
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.addHandler(log)
    root.setLevel(logging.INFO)
    return log


def _fields_of_record(record: logging.LogRecord) -> Mapping[str, object]:
    fields = {name: getattr(record, name) for name in FIELDS if name != "msg" and hasattr(record, name)}
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit
        message = str(record.msg)
    if record.exc_info and record.exc_info[1] is not None:
        message += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return {**fields, "msg": message}


def _fields_of_call(call: Observed) -> Mapping[str, object]:
    return {
        "command": call.command,
        "network": call.network,
        "containerid": call.container_id,
        "ifname": call.ifname,
        "code": call.code,
        "took_ms": round(call.seconds * 1e3, 2),
        "msg": call.message or f"{call.name}: done",
    }


def _as_json(moment: float, level: str, fields: Mapping[str, object]) -> str:
    document: dict[str, object] = {"time": _rfc3339(moment), "level": level}
    for name, value in fields.items():
        document[name] = value if isinstance(value, int | float) else str(value)[:_LONGEST]
    return json.dumps(document) + "\n"


def _as_text(moment: float, level: str, fields: Mapping[str, object]) -> str:
    words = [_rfc3339(moment), level, *(f"{name}={_word(value)}" for name, value in fields.items() if value != "")]
    return " ".join(words) + "\n"


def _word(value: object) -> str:
    """As it is, or as a JSON string, in which no control character is left and nothing but ASCII."""
    text = str(value)[:_LONGEST]
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""`cni-py status`: what the agent says of itself and what is on disk; without an agent the latter alone."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cni_py import __version__
from cni_py.cmd import overlay_status, policy_status
from cni_py.invoke.forward import report
from cni_py.model.attachment import Attachment
from cni_py.spec import frame
from cni_py.store.attachments import AttachmentStore, state_directories

_MOST = 10_000  # what one frame to the operator can hold, thrice
_CELL = 120


def look() -> dict[str, Any]:
    """The status; `agent` says whether it is the agent's."""
    answer = report()
    if answer is not None:
        return {"agent": True, **json.loads(answer)}
    from cni_py.cmd.census import Census

    census = Census()
    found, damaged = attachments()
    return {
        "agent": False,
        "version": __version__,
        "socket": frame.SOCKET,
        "attachments": found,
        "damaged": damaged,
        "pools": census.pools(),
    }


def attachments() -> tuple[list[dict[str, Any]], list[str]]:
    """The attachments that are recorded, oldest first and 10,000 at most, and what is wrong with records."""
    found: list[Attachment] = []
    damaged: list[str] = []
    for state_dir in state_directories():
        records, wrong = AttachmentStore(state_dir).list()
        found += records
        damaged += wrong
    now = time.time()
    found.sort(key=lambda one: (one.created, one.key.container_id, one.key.ifname))
    return [_describe(one, now) for one in found[:_MOST]], damaged[:100]


def _describe(one: Attachment, now: float) -> dict[str, Any]:
    return {
        "network": one.key.network,
        "containerid": one.key.container_id,
        "ifname": one.key.ifname,
        "addresses": [str(entry.address) for entry in one.addresses],
        "mode": one.mode,
        "plugin": one.plugin,
        "host_ifname": one.host_ifname,
        "age_s": max(0, int(now - one.created)),
    }


def render(status: Mapping[str, Any]) -> str:
    """For a terminal: whatever a status holds, nothing in it but printable characters and newlines."""
    lines, overlay = _head(status), status.get("overlay")
    if overlay:
        lines += ["", *overlay_status.lines(overlay)]
    if status.get("policy"):
        lines += ["", *policy_status.render(status["policy"])]
    for title, table in (
        ("peers", overlay_status.table(overlay["peers"]) if overlay else []),
        ("pools", _pools(status["pools"])),
        ("calls", _calls(status.get("calls", {}))),
        ("attachments", _attachments(status["attachments"])),
        ("last errors", _errors(status.get("errors", []))),
    ):
        if len(table) > 1:
            lines += ["", f"{title}:", *columns(table)]
    if status["damaged"]:
        lines += ["", "records that cannot be read:", *(f"  {line}" for line in status["damaged"])]
    return "".join(f"{_printable(line)}\n" for line in lines)


def _head(status: Mapping[str, Any]) -> list[str]:
    if not status["agent"]:
        return [
            f"no agent answers on {status['socket']}: start it (cni-py agent), or look at its log",
            f"this program is version {status['version']}; on disk are:",
        ]
    ready = "ready" if status["ready"] == "yes" else f"NOT READY: {status['ready']}"
    lines = [
        f"cni-py {status['version']}, pid {status['pid']}, up {age(status['uptime_s'])}, {ready}",
        f"  socket {status['socket']}, roles {','.join(status['roles'])}, host namespace {status['host_netns']}",
        f"  health and metrics: {'http://' + status['listen'] if status['listen'] else 'not served'}",
    ]
    for title, tallies in (("repaired", status["repairs"]), ("collected", status["collected"])):
        lines += [f"  {title}: {', '.join(f'{n} {what}' for what, n in tallies.items())}"] if tallies else []
    if status["log_lines_dropped"]:
        lines.append(f"  {status['log_lines_dropped']} lines of the log were dropped: nobody read it")
    return lines


def _pools(pools: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    head = ("NETWORK", "RANGES", "SIZE", "USED", "FREE")
    return [head, *((one["network"], one["ranges"], one["size"], one["used"], one["free"]) for one in pools)]


def _calls(calls: Mapping[str, Mapping[str, Any]]) -> list[Sequence[str]]:
    head = ("COMMAND", "COUNT", "FAILED", "P50 MS", "P99 MS")
    return [head, *((name, one["count"], one["failed"], one["p50_ms"], one["p99_ms"]) for name, one in calls.items())]


def _attachments(attachments: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    head = ("NETWORK", "CONTAINER", "IFNAME", "ADDRESSES", "MODE", "AGE")
    return [
        head,
        *(
            (
                one["network"],
                one["containerid"],
                one["ifname"],
                ",".join(one["addresses"]) or "-",
                one["mode"],
                age(one["age_s"]),
            )
            for one in attachments
        ),
    ]


def _errors(errors: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    head = ("TIME", "COMMAND", "NETWORK", "CONTAINER", "CODE", "MESSAGE")
    return [
        head,
        *(
            (
                datetime.fromtimestamp(one["time"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                one["command"],
                one["network"] or "-",
                one["containerid"] or "-",
                one["code"],
                one["msg"],
            )
            for one in errors
        ),
    ]


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """The rows, indented, each column as wide as it must be; the last may be long."""
    last = len(rows[0]) - 1
    cells = [[_printable(str(cell))[: None if at == last else _CELL] for at, cell in enumerate(row)] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(last)]
    return [
        "  " + "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        for row in cells
    ]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def age(seconds: int) -> str:
    """In the largest unit of which there are two."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"

"""What nobody will send DEL for: attachments that GC does not list, that a reboot outlived, whose container is gone."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cni_py.cni.call import CHAINED, Call, Node
from cni_py.cni.teardown import detach, forget
from cni_py.model.attachment import Attachment
from cni_py.model.errors import CniPyError, DecodeError, PluginError
from cni_py.model.persona import Persona
from cni_py.spec import gojson


def collect_garbage(call: Call, node: Node) -> None:
    """SPEC 1.1 section 2 GC: of this network only what is in `cni.dev/valid-attachments` is left.

    An absent list is no list (cnitool sends none): nothing is collected. `null` and `[]` say that nothing is valid. The
    IPAM plugin is asked in any case. Errors do not stop it; they are reported together at the end.
    """
    valid = parse_valid_attachments(call.request.config)
    problems: list[str] = []
    if valid is not None:
        with node.records.locked():
            node.records.sweep(call.request.network)
        attachments, damaged = node.records.list(call.request.network)
        problems += damaged
        for attachment in attachments:
            if _is_mine(attachment, call.persona) and (attachment.key.container_id, attachment.key.ifname) not in valid:
                problems += collect(attachment, node)
    if call.conf.ipam_type and call.persona not in CHAINED:
        try:
            node.delegate.run(call.conf.ipam_type, "GC")
        except CniPyError as error:
            problems.append(error.message)
    if problems:
        others = "; ".join(problems[1:]) or "all else was collected; mend this and run GC again"
        raise PluginError(f"GC of network {call.request.network!r} is incomplete: {problems[0]}", others)


def _is_mine(attachment: Attachment, persona: Persona) -> bool:
    """The main plugin's attachments under whichever name it made them, a chained persona's own."""
    if persona in CHAINED or attachment.mode == "chained":
        return attachment.plugin == persona.value
    return True


def parse_valid_attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """{(container ID, interface name)} that GC leaves alone, None if the configuration has no list at all.

    Raises DecodeError for a list with anything else in it: half understood, it would name running containers for dead.
    """
    for name in ("cni.dev/valid-attachments", "cni.dev/attachments"):  # libcni also sends the misspelt one
        if any(gojson.fold(key) == name for key in config):
            return frozenset(_valid_attachment(entry, name) for entry in gojson.get_list(config, name))
    return None


def _valid_attachment(entry: object, where: str) -> tuple[str, str]:
    if isinstance(entry, dict):
        container_id, ifname = gojson.get_string(entry, "containerID"), gojson.get_string(entry, "ifname")
        if container_id and ifname:
            return container_id, ifname
    raise DecodeError(
        f'{where}: {str(entry)[:80]!r} is not {{"containerID": ..., "ifname": ...}}; nothing was collected',
        "the runtime lists every attachment that is to stay by both",
    )


def collect_stale_boot(node: Node) -> None:
    """Attachments of an earlier boot, whose kernel state went with it, are gone with their leases (plugins#252).

    Where the boot id cannot be read nothing is known to be stale.
    """
    boot = node.occasion.boot
    if not boot or node.records.boot_of_last_add() == boot:
        return
    with node.records.locked():
        if node.records.boot_of_last_add() == boot:
            return
        for attachment in node.records.list()[0]:
            if attachment.boot not in ("", boot):
                with suppress(CniPyError):  # its IPAM plugin may be gone: the record stays, for DEL or GC
                    node.delegate.release(attachment)
                    node.records.delete(attachment)
        node.records.note_boot(boot)


def collect(attachment: Attachment, node: Node) -> list[str]:
    """One attachment is gone for good; what went wrong, in words."""
    try:
        with node.kernels.host() as kernel, node.records.locked():
            detach(attachment, node, kernel)
        if attachment.mode != "chained":
            node.delegate.release(attachment)
        forget(attachment, node)
    except CniPyError as error:
        return [f"{attachment.key}: {error.message}"]
    return []

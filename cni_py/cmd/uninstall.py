"""`cni-py uninstall`: first what brings new containers, then those there are, then files; at last it looks again."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cni_py.cmd import ipam, leftovers
from cni_py.cmd.cold import ColdMachine
from cni_py.cmd.conflist import ours
from cni_py.cmd.delegates import ScriptDelegate, release_request, variables
from cni_py.cmd.install import LOOPBACK, NAMES, is_ours
from cni_py.cmd.plugin import answer, perform
from cni_py.invoke.forward import forward
from cni_py.model.attachment import Attachment
from cni_py.model.errors import CniPyError, ExistsError
from cni_py.model.persona import Persona
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.store.attachments import AttachmentStore, state_directories
from cni_py.store.placing import Place, opened

_SHOWN = 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where cni-py was installed; `conf_dir` is "" where it wrote no configuration."""

    bin_dir: str
    conf_dir: str


def uninstall(target: Target, *, force: bool, program: Path, say: Say) -> list[str]:
    """Nothing of cni-py is on this node but what is returned, in words. `say` hears of each thing that is removed.

    Raises ExistsError while containers are attached, unless `force`: then they lose their network.
    """
    remove_conflists(target.conf_dir, say)
    attached = recorded()
    if attached and not force:
        listed = [f"  {one.key}" for one in attached[:_SHOWN]]
        listed += [f"  and {len(attached) - _SHOWN} more"] if len(attached) > _SHOWN else []
        raise ExistsError(
            "\n".join((f"{len(attached)} interfaces are attached, so plugins and state stay:", *listed)),
            "drain the node and run this again; --force takes their network away from running containers",
        )
    places = leftovers.places(attached)
    problems = [problem for one in attached if (problem := detach(one, target, program, say))]
    remove_binaries(target.bin_dir, say)
    leftovers.sweep(places, force=force, say=say)
    return problems + look(target, places)


def recorded() -> list[Attachment]:
    """All attachments of this node, chained ones before those that they belong to."""
    found = [one for path in state_directories() for one in AttachmentStore(path).list()[0]]
    return sorted(found, key=lambda one: (one.mode != "chained", str(one.key)))


def remove_conflists(conf_dir: str, say: Say) -> None:
    """No configuration in the directory has a plugin `cni-py`."""
    if _is_there(conf_dir):
        with opened(conf_dir) as place:
            for name in (*ours(place)[0], *place.sweep()):
                place.remove(name)
                say(f"removed {conf_dir}/{name}")


def remove_binaries(bin_dir: str, say: Say) -> None:
    """The forwarder is not in the directory, under whichever name."""
    if _is_there(bin_dir):
        with opened(bin_dir) as place:
            for name in (*_binaries(place), *place.sweep()):
                place.remove(name)
                say(f"removed {bin_dir}/{name}")


def detach(attachment: Attachment, target: Target, program: Path, say: Say) -> str:
    """The attachment is gone, by DEL: the agent's, or without one our own. "" or what went wrong."""
    _, request = release_request(attachment, (target.bin_dir,))
    # No namespace is given: the runtime's path may have come to lead to another container's.
    environ = {**os.environ, **variables(request)}
    persona = Persona.named(attachment.plugin)
    try:
        answered = forward(persona.value, environ, request.stdin)
        code, stdout = (
            (answered.code, answered.stdout) if answered is not None else _here(persona, environ, request, program)
        )
        problem = gojson.get_string(json.loads(stdout), "msg") if code else ""
    except (CniPyError, ValueError) as error:
        problem = str(error)
    if not problem:
        say(f"detached {attachment.key}")
    return f"{attachment.key}: {problem}" if problem else ""


def look(target: Target, places: leftovers.Places) -> list[str]:
    """All that is left of cni-py on this node, in words."""
    found: list[str] = []
    if _is_there(target.conf_dir):
        with opened(target.conf_dir) as place:
            mine, users = ours(place)
        found += [f"{target.conf_dir}/{name}" for name in mine]
        found += [f"{target.conf_dir}/{user}: remove it, or give it another" for user in users]
    if _is_there(target.bin_dir):
        with opened(target.bin_dir) as place:
            found += [f"{target.bin_dir}/{name}" for name in _binaries(place)]
    return found + leftovers.look(places)


def _here(persona: Persona, environ: dict[str, str], request: Request, program: Path) -> tuple[int, bytes]:
    machine = _Here(environ, program)
    answered = answer(persona.value, lambda one: perform(one, persona, machine), environ, lambda: request.stdin)
    return answered.code, answered.stdout


class _Here(ColdMachine):
    """Without an agent, and without plugins: what is on CNI_PATH under our names would look for the agent."""

    def delegate(self, request: Request, state_dir: str) -> ScriptDelegate:
        """See Machine."""
        return _OwnDelegate(request, state_dir, self._environ, self._program)


class _OwnDelegate(ScriptDelegate):
    def call(self, plugin: str, request: Request) -> bytes:
        """Our own plugin by name alone."""
        if plugin == ipam.NAME:
            return ipam.call(request, attached=self._state_dir)
        return super().call(plugin, request)


def _binaries(place: Place) -> list[str]:
    return [name for name in NAMES if place.has(name)] + ([LOOPBACK] if is_ours(place, LOOPBACK) else [])


def _is_there(directory: str) -> bool:
    try:
        return bool(directory) and stat.S_ISDIR(Path(directory).stat().st_mode)
    except OSError:
        return False

"""What every plugin does around its verbs: parse the request, answer VERSION, turn an error into the error document."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cni_py.model.errors import CniPyError, PluginError
from cni_py.model.persona import Persona
from cni_py.spec import versions
from cni_py.spec.codes import render_error
from cni_py.spec.request import Request, parse_request, version_hint

if TYPE_CHECKING:
    from cni_py.cmd.machine import Machine

# One call of a verb: returns what goes to stdout, b"" for all but ADD.
Verbs = Callable[[Request], bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process prints and how it ends."""

    code: int
    stdout: bytes = b""
    stderr: bytes = b""


def perform(request: Request, persona: Persona, machine: "Machine") -> bytes:
    """What the verb of that plugin prints; each imports what it needs when it is called: VERSION pays for nothing."""
    match persona:
        case Persona.CNI_PY_IPAM | Persona.HOST_LOCAL:
            return machine.ipam(request)
        case Persona.LOOPBACK:
            from cni_py.cmd import loopback

            return loopback.call(request, machine.kernels())
        case _:
            from cni_py.cmd import cni

            return cni.call(request, persona, machine)


def answer(name: str, verbs: Verbs, environ: Mapping[str, str], read_stdin: Callable[[], bytes]) -> Answer:
    """The answer of the plugin `name` to one call; never raises, whatever comes in."""
    if not environ.get("CNI_COMMAND"):
        return Answer(0, stderr=_about(name))
    stdin = b""

    def read_once() -> bytes:
        nonlocal stdin
        stdin = read_stdin()
        return stdin

    try:
        request = parse_request(environ, read_once)
        return Answer(0, _version() if request.command == "VERSION" else verbs(request))
    except CniPyError as error:
        return Answer(1, render_error(error, version_hint(stdin)))
    except ImportError as error:
        what, _, remedy = missing_library(error).partition("; ")
        return Answer(1, render_error(PluginError(f"{name}: {what}", remedy), version_hint(stdin)))
    except MemoryError:
        return Answer(1, render_error(PluginError(f"{name}: out of memory"), versions.CURRENT))
    except Exception as error:  # noqa: BLE001  # the caller reads JSON; a traceback on stdout or stderr helps nobody
        bug = PluginError(
            f"{name}: unexpected {type(error).__name__}: {error}"[:500],
            "this is a bug in cni-py; please report it with the configuration that led to it",
        )
        return Answer(1, render_error(bug, version_hint(stdin)))


def missing_library(error: ImportError) -> str:
    """What is missing, and after a semicolon where it comes from."""
    return (
        f"the Python library {error.name!r} is missing for {sys.executable}; "
        "in a checkout run ./dev setup, else install cni-py with pip for this very Python"
    )


def _about(name: str) -> bytes:
    supported = ", ".join(versions.SUPPORTED)
    return f"CNI plugin {name} of cni-py\nCNI protocol versions supported: {supported}\n".encode()


def _version() -> bytes:
    return json.dumps({"cniVersion": versions.CURRENT, "supportedVersions": list(versions.SUPPORTED)}).encode()

"""The program's one entry: which plugin it is by its name, or the operator's command line when no verb is given."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from cni_py.cmd.cold import ColdMachine
from cni_py.cmd.plugin import Answer, answer, missing_library, perform
from cni_py.model.errors import IOFailureError
from cni_py.model.persona import Persona
from cni_py.spec.frame import SOCKET
from cni_py.spec.gojson import MAX_BYTES
from cni_py.spec.request import Request


def main(program: Path) -> None:
    """The process does what it was started for and exits. `program` is the file that was run, links not resolved."""
    arguments = sys.argv[1:]
    if not os.environ.get("CNI_COMMAND") and arguments:
        try:
            from cni_py.cmd.cli import cli
        except ImportError as error:
            finish(Answer(1, stderr=f"cni-py: {missing_library(error)}\n".encode()))
        cli(arguments)
    persona = Persona.named(program.name)
    finish(answer(persona.value, lambda request: _call(request, persona, program), os.environ, read_stdin))


def _call(request: Request, persona: Persona, program: Path) -> bytes:
    """The agent answers, or where there is none the call is carried out here."""
    if os.path.exists(SOCKET):  # noqa: PTH110  # a node without an agent does not even import the way to it
        from cni_py.invoke.forward import forward

        answered = forward(persona.value, os.environ, request.stdin)
        if answered is not None:
            finish(Answer(answered.code, answered.stdout))
    return perform(request, persona, ColdMachine(os.environ, program))


def finish(answered: Answer) -> NoReturn:
    """The answer is printed, whole, and the process ends. A caller that hung up is no reason for a traceback."""
    for fd, data in ((2, answered.stderr), (1, answered.stdout)):
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError:
            os._exit(answered.code or 1)
    sys.exit(answered.code)


def read_stdin() -> bytes:
    """All of stdin, or one byte more than a configuration may have. Raises IOFailureError."""
    parts: list[bytes] = []
    size = 0
    try:
        while size <= MAX_BYTES:
            part = os.read(0, 1 << 16)
            if not part:
                break
            parts.append(part)
            size += len(part)
    except OSError as error:
        raise IOFailureError(f"error reading from stdin: {error.strerror}", "give the configuration on stdin") from None
    return b"".join(parts)

"""Run a delegated plugin: same environment, same stdin bytes, its stderr to ours (SPEC 1.1 section 4)."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni_py.model.errors import DecodeError, DelegatedError, PluginError
from cni_py.spec import gojson


def run_plugin(executable: Path, environ: Mapping[str, str], stdin: bytes) -> bytes:
    """What the plugin prints; its stderr is ours. Raises DelegatedError with its error, PluginError if it gave none."""
    try:
        finished = subprocess.run(  # noqa: S603  # the name was checked, the directory is the runtime's
            [str(executable)], input=stdin, stdout=subprocess.PIPE, env=dict(environ), check=False
        )
    except OSError as error:
        raise PluginError(f"cannot run plugin {executable}: {error.strerror}", "is it an executable file?") from None
    return check_outcome(executable.name, finished.returncode, finished.stdout)


def check_outcome(name: str, status: int, stdout: bytes) -> bytes:
    """The output of a plugin that succeeded. `status` as `subprocess` has it: negative for a signal.

    Raises DelegatedError with the error document that it printed, PluginError if it printed none.
    """
    if status == 0:
        return stdout
    ended = f"exit status {status}" if status > 0 else f"signal {-status}"
    try:
        document: dict[str, Any] = gojson.decode(stdout)
        code = gojson.get_int(document, "code")
        message = gojson.get_string(document, "msg")
        details = gojson.get_string(document, "details")
    except DecodeError:
        code, message, details = None, "", ""
    if code is None or not message:
        raise PluginError(f"plugin {name} failed without an error document: {ended}", "its log is on stderr") from None
    raise DelegatedError(message, code, details)

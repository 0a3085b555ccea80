"""The only map from the exception tree to the error codes of the wire (SPEC 1.1 section 5, "Error")."""

import json

from cni_py.model import errors

# Codes 8 and 999 are not in the spec: Go's types define them, and nearly all failures of the reference plugins are 999.
CODE: dict[type[errors.CniPyError], int] = {
    errors.IncompatibleVersionError: 1,
    errors.UnsupportedFieldError: 2,
    errors.BadEnvironmentError: 4,
    errors.IOFailureError: 5,
    errors.DecodeError: 6,
    errors.InvalidConfigError: 7,
    errors.NetnsError: 8,
    errors.TryAgainError: 11,
    errors.UnavailableError: 50,
    errors.DegradedError: 51,
    errors.PluginError: 999,
}


def code_of(error: errors.CniPyError) -> int:
    """The wire code of an error: its own, its class's or that of the nearest ancestor."""
    if isinstance(error, errors.DelegatedError):
        return error.code
    return next((CODE[cls] for cls in type(error).__mro__ if cls in CODE), 999)


def render_error(error: errors.CniPyError, cni_version: str) -> bytes:
    """The error document for stdout. SPEC wants `cniVersion` in it; the reference leaves it out, callers take both."""
    document: dict[str, object] = {"cniVersion": cni_version, "code": code_of(error), "msg": error.message}
    if error.details:
        document["details"] = error.details
    return json.dumps(document, indent=4, ensure_ascii=False).encode("utf-8", "backslashreplace")

"""The one exception tree. Each class says who must act; `spec.codes` alone maps it to the wire."""


class CniPyError(Exception):
    """Anything that ends a verb with an error.

    `message` is what went wrong and where, `details` what to do next. Both reach the user as the CNI error's
    `msg` and `details`, so neither may hold a secret or a traceback.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class IncompatibleVersionError(CniPyError):
    """The configuration asks for a CNI version or a verb that the version does not allow. The operator changes it."""


class UnsupportedFieldError(CniPyError):
    """The configuration has an option that this node cannot honour, such as VLANs without kernel support. Operator."""


class BadEnvironmentError(CniPyError):
    """A CNI_ variable is missing or malformed. The runtime, or whoever types `cnitool`, corrects it."""


class IOFailureError(CniPyError):
    """A file, directory or stdin could not be read or written (full disk, read-only, permission). The operator."""


class DecodeError(CniPyError):
    """Bytes that should be JSON, or of a certain shape, are not. Who wrote them corrects them."""


class InvalidConfigError(CniPyError):
    """The configuration decodes but contradicts itself or names what does not exist. The operator changes it."""


class TryAgainError(CniPyError):
    """Nothing is wrong for good: the runtime calls again later."""


class NetnsError(CniPyError):
    """CNI_NETNS is not a network namespace, or is the node's own. The runtime corrects it."""


class UnavailableError(CniPyError):
    """STATUS: no ADD can be served now, running containers are fine."""


class DegradedError(CniPyError):
    """STATUS: no ADD can be served now and running containers may have lost their network."""


class PluginError(CniPyError):
    """A step failed for a reason that no other class names; the message is the whole story (the reference's 999)."""


class NoAddressError(PluginError):
    """A pool has no address left, or not the one that was asked for. The operator frees or adds some."""


class ExistsError(PluginError):
    """What should be made is there already and is not ours: an interface, a lease, a host port. Runtime or operator."""


class KernelError(PluginError):
    """The kernel refused a change. `errno` is its number; the message names the change."""

    def __init__(self, message: str, errno: int, details: str = "") -> None:
        super().__init__(message, details)
        self.errno = errno


class MissingFeatureError(KernelError):
    """The kernel lacks a feature. The operator loads the module named in `details`, or drops the option."""


class CheckFailedError(PluginError):
    """CHECK found the container's network different from what ADD left. The runtime re-creates the container."""


class DelegatedError(CniPyError):
    """A delegated plugin answered with an error of its own, which is passed up unchanged with its code."""

    def __init__(self, message: str, code: int, details: str = "") -> None:
        super().__init__(message, details)
        self.code = code

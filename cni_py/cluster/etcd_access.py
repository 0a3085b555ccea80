"""Where etcd is and how it is asked: endpoints, TLS, a user; and who a machine is that asks."""

import hashlib
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cni_py.cluster.record import shown
from cni_py.model.errors import InvalidConfigError, IOFailureError

_MACHINE_ID = Path("/etc/machine-id")
_KNOWN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where etcd is, `http://` or `https://` ADDRESS:PORT each, and who asks. `ca`, `cert`, `key` are files."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = field(default="", repr=False)

    def context(self) -> ssl.SSLContext | None:
        """TLS as it is to be, None without. Raises InvalidConfigError for what no waiting mends."""
        if not self.endpoints or not all(one.startswith(("http://", "https://")) for one in self.endpoints):
            said = shown(", ".join(self.endpoints))
            raise InvalidConfigError(f"{said} are no endpoints of etcd", "such as https://192.0.2.1:2379, one or more")
        secure = [one.startswith("https://") for one in self.endpoints]
        if any(secure) != all(secure):
            raise InvalidConfigError("etcd's endpoints are partly http, partly https", "give them all as https://")
        if not any(secure):
            if self.ca or self.cert or self.key:
                raise InvalidConfigError("etcd's CA or certificate is given, but no https", "write https://")
            return None
        if bool(self.cert) != bool(self.key):
            raise InvalidConfigError("etcd: a certificate goes with its key", "give both files or none")
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(one for one in (self.ca, self.cert, self.key) if one)
            raise InvalidConfigError(f"etcd: {files} cannot be used: {error}", "these are to be PEM files") from None
        return context


def machine_identity(path: Path = _MACHINE_ID) -> str:
    """What a node is known by: a hash of the machine's id, which itself is nobody else's to know.

    It stays the same over reboots and new addresses. Raises IOFailureError.
    """
    try:
        text = path.read_text("ascii", "replace").strip()
    except OSError as error:
        raise IOFailureError(
            f"{path} cannot be read: {error.strerror}", "give the node an identity of its own"
        ) from None
    if not _KNOWN.fullmatch(text) or text == "0" * 32:
        raise IOFailureError(
            f"{path} holds no machine id but {shown(text)}",
            "make one with systemd-machine-id-setup, or give an identity",
        )
    return hashlib.sha256(f"cni-py\0{text}".encode()).hexdigest()[:32]

"""How the API server of Kubernetes is reached: where it is, and who we are there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cni_py.model.errors import InvalidConfigError
from cni_py.model.overlay import BackendName

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """The API server `server`, an https:// address, as it is reached by the node of the name `node`.

    What is a Path is a file that is read again when it changes, what is bytes its content. Without `ca` the system's
    are believed. `cluster` is that of `overlay.Network`.

    With `flannel` the node is one of flanneld's as well, which is the backend that it says there, at flannel's port
    `flannel_port` with VXLAN.
    """

    server: str
    node: str
    cluster: str
    ca: Path | bytes | None = None
    token: Path | bytes | None = field(default=None, repr=False)
    certificate: Path | bytes | None = field(default=None, repr=False)
    key: Path | bytes | None = field(default=None, repr=False)
    flannel: BackendName | None = None
    flannel_port: int = 8472

    def __post_init__(self) -> None:
        if not self.server.startswith("https://"):
            raise InvalidConfigError(f"the API server {self.server!r} is no https:// address", "give one that is")


def in_cluster(node: str, cluster: str, environ: Mapping[str, str] = os.environ) -> KubeAccess:
    """The access that a Pod has by its ServiceAccount. Raises InvalidConfigError where there is none."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise InvalidConfigError(
            "KUBERNETES_SERVICE_HOST is not set, so this is no Pod of Kubernetes",
            "run the agent as a Pod with a ServiceAccount, or give it a kubeconfig",
        )
    return KubeAccess(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        node,
        cluster,
        ca=_SERVICE_ACCOUNT / "ca.crt",
        token=_SERVICE_ACCOUNT / "token",
    )

"""A real kube-apiserver on a real etcd, as processes in the test's namespaces, and its objects by hand."""

import json
import os
import select
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import trustme
from cluster.etcd_server import Etcd, etcd

KUBERNETES = Path(os.environ.get("CNI_PY_KUBERNETES", "~/.cache/cni-py/kubernetes")).expanduser()
PORT = 6443
WAIT_S = 120
Json = dict[str, Any]


class ApiServer:
    """kube-apiserver at that address, with RBAC."""

    def __init__(self, directory: Path, store: Etcd, address: str = "127.0.0.1") -> None:
        self.url, self.ca = f"https://{address}:{PORT}", directory / "ca.crt"
        self._log = directory / "apiserver.log"
        self._process: subprocess.Popen[bytes] | None = None
        authority = trustme.CA()
        issued = authority.issue_cert(address)
        certificate, key, tokens = directory / "api.crt", directory / "api.key", directory / "tokens.csv"
        authority.cert_pem.write_to_path(str(self.ca))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        tokens.write_text("admin,admin,1,system:masters\n")
        self._trust = ssl.create_default_context(cafile=str(self.ca))
        self._command = [
            str(KUBERNETES / "kube-apiserver"),
            *("--etcd-servers", store.url, "--service-cluster-ip-range", "10.96.0.0/16"),
            *("--bind-address", address, "--advertise-address", "192.0.2.1", "--secure-port", str(PORT)),
            *("--tls-cert-file", str(certificate), "--tls-private-key-file", str(key), "--cert-dir", str(directory)),
            *("--service-account-key-file", str(key), "--service-account-signing-key-file", str(key)),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--endpoint-reconciler-type", "none"),
            *("--token-auth-file", str(tokens), "--authorization-mode", "RBAC"),
        ]

    def start(self, *arguments: str) -> None:
        """It runs, with these options besides, and is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self._log.open("ab") as log:
            ready.bind("")  # a name of the kernel's choice, without a file
            environ = {**os.environ, "NOTIFY_SOCKET": ready.getsockname().decode().replace("\0", "@", 1)}
            self._process = subprocess.Popen([*self._command, *arguments], env=environ, stdout=log, stderr=log)
            ended = os.pidfd_open(self._process.pid)
            seen, _, _ = select.select([ready.fileno(), ended], [], [], WAIT_S)
            assert ready.fileno() in seen, f"kube-apiserver did not start: {self._log.read_text()[-2000:]}"
            # it listens; what it makes for itself at its start, such as namespaces and roles, comes a moment later
            while not self._ready():
                assert not select.select([ended], [], [], 0.1)[0], self._log.read_text()[-2000:]
            os.close(ended)

    def stop(self) -> None:
        """It has ended, at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(WAIT_S)
            self._process = None

    def call(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        """What the administrator asks for, without code of ours."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer admin", "Content-Type": kind}
        request = Request(self.url + path, data, headers, method=method)  # noqa: S310  # the test's own
        try:
            with urlopen(request, timeout=WAIT_S, context=self._trust) as answer:  # noqa: S310  # as above
                found: Json = json.load(answer)
        except HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.read().decode()}") from None
        return found

    def add_node(self, name: str, *cidrs: str, **status: Any) -> None:
        """A Node, as a kubelet and kube-controller-manager make it."""
        annotations = {"node.alpha.kubernetes.io/ttl": "0"}  # the latter always makes it; flanneld dies without any
        document = {
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"podCIDRs": cidrs, "podCIDR": cidrs[0]},
            "status": status,
        }
        self.call("POST", "/api/v1/nodes", document)

    def account(self, name: str) -> str:
        """A token of a new ServiceAccount in the namespace default."""
        path = "/api/v1/namespaces/default/serviceaccounts"
        self.call("POST", path, {"metadata": {"name": name}})
        token: str = self.call("POST", f"{path}/{name}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
        return token

    def grant(self, role: Json, account: str) -> None:
        """The ClusterRole is there, and the ServiceAccount has it."""
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        self.call("POST", f"{rbac}/clusterroles", role)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "default"}
        binding = {"metadata": {"name": account}, "roleRef": reference, "subjects": [subject]}
        self.call("POST", f"{rbac}/clusterrolebindings", binding)

    def _ready(self) -> bool:
        try:
            request = Request(f"{self.url}/readyz", headers={"Authorization": "Bearer admin"})  # noqa: S310  # as above
            with urlopen(request, timeout=WAIT_S, context=self._trust) as answer:  # noqa: S310  # as above
                return bool(answer.status == 200)
        except (HTTPError, URLError, ConnectionError):
            return False


@contextmanager
def apiserver(directory: Path, *, streaming: bool = True, address: str = "127.0.0.1") -> Iterator[ApiServer]:
    """One for the block, and its etcd, which for streaming lists is to be newer than the system's may be."""
    if not (KUBERNETES / "kube-apiserver").exists() or not (KUBERNETES / "etcd").exists():
        pytest.skip(f"kube-apiserver and its etcd are not in {KUBERNETES}: run ./dev setup")
    path = f"{KUBERNETES}:{os.environ['PATH']}" if streaming else os.environ["PATH"]
    with patch.dict(os.environ, PATH=path), etcd(directory, "--unsafe-no-fsync") as store:
        server = ApiServer(directory, store, address)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def write_kubeconfig(path: Path, server: ApiServer) -> None:
    """The administrator's."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url, "certificate-authority": str(server.ca)}}],
        "users": [{"name": "u", "user": {"token": "admin"}}],
    }
    path.write_text(json.dumps(document))

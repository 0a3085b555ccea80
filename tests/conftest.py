"""The `sudo` marker: a test with it runs as root in a network and a mount namespace of its own.

As a normal user `./dev test` starts pytest inside a user namespace, in which nearly all of these tests work as well;
`sudo(real=True)` marks those that need the machine's true root (a container engine). With CI=true a skip is a failure.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A machine under load is no bug of the code: what is too slow is shown by bench/, never by a time limit in a test.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
# Where cni-py, the reference plugins and iproute2 keep state: each test has its own, empty.
PRIVATE = ("/run", "/var/lib")

REFERENCE = Path(os.environ.get("CNI_PY_REFERENCE", "~/.cache/cni-py/reference")).expanduser()
ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every `sudo` test its namespaces, also when it asks for no fixture."""
    for item in items:
        marker = item.get_closest_marker("sudo")
        if marker is not None and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "fresh_namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this user cannot run, and say why."""
    marker = item.get_closest_marker("sudo")
    if marker is None:
        return
    if os.geteuid() != 0:
        pytest.skip("needs root or a user namespace: run ./dev test")
    if marker.kwargs.get("real") and Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("needs the machine's own root, not a user namespace")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure: what is not run there is not known to work anywhere."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, in CI that is a failure: {report.longrepr}"
    return report


def _call(name: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@pytest.fixture
def fresh_namespaces() -> Iterator[None]:
    """New network and mount namespaces around one test; all that it makes goes with them."""
    cwd = Path.cwd()
    kept = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), kind) for name, kind in _KINDS]
    _call("unshare", CLONE_NEWNET | CLONE_NEWNS)
    try:
        _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        for path in PRIVATE:
            _call("mount", b"tmpfs", path.encode(), b"tmpfs", 0, b"mode=0755")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        _await_lone_thread()
        for fd, kind in kept:
            _call("setns", fd, kind)
            os.close(fd)
        os.chdir(cwd)


def _await_lone_thread() -> None:
    """Threads that were joined are gone from the kernel as well: a process with several may not change its mounts."""
    deadline = time.monotonic() + 5
    while len(list(Path("/proc/self/task").iterdir())) > 1 and time.monotonic() < deadline:
        time.sleep(0.001)


_KINDS = (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory with the compiled reference plugins and cnitool; `./dev setup` builds it."""
    if not (REFERENCE / "cnitool").exists():
        pytest.skip(f"the reference plugins are not in {REFERENCE}: run ./dev setup")
    return REFERENCE

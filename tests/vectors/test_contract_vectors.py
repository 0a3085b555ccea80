"""The vectors of the contract: files that each hold one call and what must come back, from us and from the reference.

`reference` says how the compiled plugin of the same name answers: `same` exit, code, message and details; `same code`,
`same exit`, `same document`; `differs: why`; `none: why`. To add a case, copy a file below `contract/`.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import install, netns

pytestmark = pytest.mark.sudo

FILES = sorted((Path(__file__).parent / "contract").glob("*.json"))
TESTS = Path(__file__).parent.parent
# Items that need a kernel, a sequence or a runtime have a test whose docstring begins with their number.
ITEMS = range(1, 33)


def call(vector: dict[str, Any], path: Path, program: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the vector's call of a program."""
    environ = {
        "PATH": os.environ["PATH"],
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(path),
        **vector.get("env", {}),
    }
    if vector["command"] is not None:
        environ["CNI_COMMAND"] = vector["command"]
    stdin = vector["stdin"] if isinstance(vector["stdin"], str) else json.dumps(vector["stdin"])
    done = subprocess.run([program], input=stdin.encode(), env=environ, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def holds(wanted: Any, seen: Any) -> bool:
    """What is wanted is there: of objects the named fields, all else as it is."""
    if isinstance(wanted, dict) and isinstance(seen, dict):
        return all(key in seen and holds(value, seen[key]) for key, value in wanted.items())
    return bool(wanted == seen)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_vector(file: Path, tmp_path: Path, reference: Path) -> None:
    """Our program answers as the vector says, and the reference as the vector says that it does."""
    vector = json.loads(file.read_text())
    expected, path = vector["expect"], install(tmp_path / "bin")
    netns("c1")
    code, stdout, stderr = call(vector, path, path / vector["plugin"])
    assert "Traceback" not in stderr
    assert (code, expected.get("stdout", stdout)) == (expected["exit"], stdout)
    assert expected.get("stderr", "") in stderr
    document = json.loads(stdout) if stdout else {}
    assert holds(expected.get("document", {}), document), stdout
    if code != 0:
        assert {"cniVersion", "code", "msg"} <= set(document)
    if vector["reference"].startswith("none:"):
        return
    subprocess.run(["ip", "netns", "del", "c1"], check=True)
    shutil.rmtree("/var/lib/cni/networks", ignore_errors=True)
    netns("c1")
    _compare(vector["reference"], (code, document), call(vector, reference, reference / vector["plugin"]))


def _compare(how: str, ours: tuple[int, dict[str, Any]], theirs: tuple[int, str, str]) -> None:
    code, document = theirs[0], json.loads(theirs[1]) if theirs[1] else {}
    assert ours[0] == code, theirs
    if how.startswith("differs:"):
        assert ours[1].get("code") != document.get("code"), "it does not differ"
    elif how == "same code":
        assert ours[1]["code"] == document["code"], theirs
    elif how == "same document":
        assert ours[1] == document
    elif how == "same":
        for key in ("code", "msg", "ips", "ip4", "routes"):
            assert ours[1].get(key) == document.get(key), theirs
        assert "details" not in document or ours[1]["details"] == document["details"]
    else:
        assert how == "same exit"


def test_every_item_has_a_test() -> None:
    """Each numbered item of the contract has a vector, or a test whose docstring begins with "Item N"."""
    named = {json.loads(file.read_text())["item"] for file in FILES}
    for test in TESTS.rglob("test_*.py"):
        named |= {int(number) for number in re.findall(r'"""Item (\d+)', test.read_text())}
    assert set(ITEMS) <= named

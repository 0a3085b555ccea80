"""The program around its verbs: what it is called, what it lacks, what it says when nobody asked for a verb."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "cni-py", "ipam": {"type": "cni-py-ipam"}}


def run(program: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The program, with a minimal environment."""
    command = [str(program), *arguments]
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ}
    return subprocess.run(command, input=json.dumps(CONFIG), env=env, capture_output=True, text=True, check=False)


def test_missing_libraries_are_named(tmp_path: Path) -> None:
    """A copy without its virtual environment says which library is missing, and what to do; VERSION needs none."""
    shutil.copytree(ROOT / "cni_py", tmp_path / "cni_py", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    program = Path(shutil.copy(ROOT / "bin/cni-py", tmp_path / "bin/cni-py"))
    environ = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
    assert run(program, CNI_COMMAND="VERSION").returncode == 0
    done = run(program, CNI_COMMAND="ADD", **environ)
    if "is missing" not in done.stdout:
        pytest.fail(f"the system has pydantic, so nothing is missing here: {done.stdout}")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, "'pydantic'" in document["msg"]) == (1, "", True)
    assert "./dev setup" in document["details"]


def test_found_through_a_link(tmp_path: Path) -> None:
    """A link in a CNI_PATH directory finds its libraries, from any working directory."""
    link = tmp_path / "bridge"
    link.symlink_to(ROOT / "bin/cni-py")
    assert json.loads(run(link, CNI_COMMAND="VERSION").stdout)["cniVersion"] == "1.1.0"


def test_no_verb_no_words() -> None:
    """Without a verb and without arguments: what it is, on stderr; success."""
    done = run(ROOT / "bin/cni-py")
    assert (done.returncode, done.stdout, "CNI protocol versions supported" in done.stderr) == (0, "", True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--version"], 0, "cni-py, version "),
        (["--help"], 0, "ipam"),
        (["ipam", "show", "--data-dir", "/nowhere"], 0, "no leases in /nowhere"),
        (["ipam", "show", "--data-dir", "/nowhere", "-o", "json"], 0, "{"),
        (["ipam", "show", "-o", "xml"], 2, "'xml' is not one of"),
        (["frob"], 2, "No such command"),
        (["ipam", "show", "--data-dir", "/proc/self/environ"], 1, "/proc/self/environ"),
    ],
    ids=str,
)
def test_command_line(arguments: list[str], code: int, text: str) -> None:
    """0 done, 1 a problem, 2 wrong usage; never a traceback."""
    done = run(ROOT / "bin/cni-py", *arguments)
    assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done
    assert "Traceback" not in done.stderr

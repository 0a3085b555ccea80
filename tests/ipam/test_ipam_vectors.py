"""Cases as data: `tests/vectors/ipam/*.json`, run against ours and, where marked, against the compiled host-local.

A case is {"name", "reference": does host-local answer the same, "steps": [{"env", "stdin", "code", "stdout"}]}. The
steps share one fresh data directory, `DIR` in the texts. `code` is the exit status; what `stdout` names must be there
and equal. Of an error only `msg` is compared with the reference (it has no `cniVersion` and fewer codes).
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ipam.plugins import Outcome, environment, finish, in_process, start_reference, tree

VECTORS = Path(__file__).parent.parent / "vectors" / "ipam"


def _cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case['name']}")
        for path in sorted(VECTORS.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def _prepare(step: dict[str, Any], data_dir: Path) -> tuple[dict[str, str], bytes]:
    env = environment("ADD") | step.get("env", {})
    return env, json.dumps(step["stdin"]).replace("DIR", str(data_dir)).encode()


def _expect(step: dict[str, Any], data_dir: Path, outcome: Outcome, *, codes: bool) -> None:
    expected = json.loads(json.dumps(step["stdout"]).replace("DIR", str(data_dir)))
    if not codes:
        expected.pop("code", None)
        expected.pop("details", None)
    shown = {key: outcome.document.get(key) for key in expected}
    assert (step["code"], expected) == (outcome.code, shown)


@pytest.mark.parametrize("case", _cases())
def test_ours(case: dict[str, Any], tmp_path: Path) -> None:
    """Our plugin answers each step as the vector says."""
    for step in case["steps"]:
        env, stdin = _prepare(step, tmp_path)
        _expect(step, tmp_path, in_process(stdin, env), codes=True)


@pytest.mark.parametrize("case", [one for one in _cases() if one.values[0].get("reference", True)])
def test_reference(case: dict[str, Any], tmp_path: Path, reference: Path) -> None:
    """host-local answers each step as the vector says, and leaves the same files as ours."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    for step in case["steps"]:
        env, stdin = _prepare(step, theirs)
        _expect(step, theirs, finish(start_reference(reference, env), stdin), codes=False)
        in_process(_prepare(step, ours)[1], env)
    assert tree(theirs) == tree(ours)

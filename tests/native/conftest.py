"""The shim as it is shipped, but impatient, and the same sources under AddressSanitizer and UBSan."""

import os
import subprocess
from pathlib import Path

import pytest
from native.fake_agent import Caller

ROOT = Path(__file__).parent.parent.parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
IMPATIENT = ("-DAWAY_MS=400", "-DANSWER_MS=700")
FUZZED = "fuzz.c request.c call.c json.c text.c wire.c run.c"


def build(out: Path, *flags: str, **environ: str) -> Path:
    """`native/build` into `out`."""
    subprocess.run([ROOT / "native/build", out, "-Werror", *flags], env={**os.environ, **environ}, check=True)
    return out


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with `released`, `sanitized` and `fuzz`."""
    directory = tmp_path_factory.mktemp("native")
    build(directory / "released", *IMPATIENT)
    build(directory / "sanitized", *IMPATIENT, *SANITIZE, HOSTED="1")
    build(directory / "fuzz", *SANITIZE, HOSTED="1", SOURCES=FUZZED)
    return directory


@pytest.fixture(params=["released", "sanitized"])
def shim(request: pytest.FixtureRequest, native: Path) -> Caller:
    """A runtime in front of either build."""
    return Caller(native / request.param)

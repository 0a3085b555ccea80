"""A fake API server for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.fake_api import FakeApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    """It serves."""
    with FakeApi(tmp_path) as server:
        yield server

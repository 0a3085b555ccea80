"""The agent and the two forwarders for the tests here, and the option that says how long the fault campaign is."""

from pathlib import Path

import pytest
from agent.live import FORWARDERS, SHIM


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--campaign N`: ADDs and DELs during which the agent is killed; a small number keeps `./dev test` quick."""
    parser.addoption("--campaign", type=int, default=300, help="calls in all while the agent is killed (300)")


@pytest.fixture(params=FORWARDERS)
def program(request: pytest.FixtureRequest) -> Path:
    """The shim, and the script as a forwarder."""
    return FORWARDERS[request.param]


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    """The shim as `./dev test` builds it."""
    if not SHIM.exists():
        pytest.skip("the shim is not built: run ./dev shim")

"""The options that say how long the campaigns of policies are; small numbers keep `./dev test` quick."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--verdicts N`: flows of which the compiled rules are compared with the oracle. `--starts N`: of the probe."""
    parser.addoption("--verdicts", type=int, default=50_000, help="verdicts that are compared (50,000)")
    parser.addoption("--starts", type=int, default=300, help="starts of a pod that must not send (300)")

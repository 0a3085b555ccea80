"""The option that says how long to fuzz."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fuzz N`: hostile calls in all; a small number keeps `./dev test` quick."""
    parser.addoption("--fuzz", type=int, default=2000, help="hostile calls in all (2000)")

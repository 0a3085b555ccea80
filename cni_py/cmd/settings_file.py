"""The file of the agent's settings."""

from pathlib import Path

from cni_py.agent.settings import Settings, parse_settings
from cni_py.model.errors import DecodeError, InvalidConfigError, IOFailureError


def read_settings(path: str) -> Settings:
    """Raises InvalidConfigError, IOFailureError."""
    from cni_py.cluster.yaml_text import load_yaml

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise IOFailureError(
            f"cannot read the configuration {path}: {error.strerror}", "docs/overlay.md has an example"
        ) from None
    try:
        return parse_settings(load_yaml(data), path)
    except DecodeError as error:
        raise InvalidConfigError(f"{path}: {error.message}", "docs/overlay.md has an example") from None

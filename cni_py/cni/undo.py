"""The way back of a half-done verb: each step leaves here how it is undone."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from cni_py.model.errors import CniPyError


class Undo:
    """A block that, when an error leaves it, takes its steps back, last first; what fails then joins the error."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, step: Callable[[], object]) -> None:
        """`step` undoes what was just done; `what` names it in the error should it fail as well."""
        self._steps.append((what, step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        for what, step in reversed(self._steps):
            try:
                left = step()
            except CniPyError as failure:
                left = [f"could not {what}: {failure.message}"]
            if isinstance(error, CniPyError) and isinstance(left, list):
                error.details = "; ".join(filter(None, (error.details, *left)))

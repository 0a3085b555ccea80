"""The exception tree and the codes of the wire."""

import json
from collections.abc import Iterator

import pytest

from cni_py.model import errors
from cni_py.model.errors import CniPyError
from cni_py.spec.codes import CODE, code_of, render_error


def _subclasses(cls: type[CniPyError]) -> Iterator[type[CniPyError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


ALL = sorted(set(_subclasses(CniPyError)), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_has_a_code_and_says_who_acts(cls: type[CniPyError]) -> None:
    """A class that is on the map, or below one that is; its docstring says what happened."""
    assert cls.__doc__
    assert cls is errors.DelegatedError or any(base in CODE for base in cls.__mro__)


def test_codes_are_the_specs() -> None:
    """SPEC 1.1 section 5: 1 to 7, 11, 50, 51; 8 and 999 are those of Go's types."""
    assert sorted(CODE.values()) == [1, 2, 4, 5, 6, 7, 8, 11, 50, 51, 999]


def test_a_delegates_code_is_passed_up() -> None:
    """An error of another plugin keeps its number."""
    assert code_of(errors.DelegatedError("m", 123, "d")) == 123


def test_a_document_survives_any_text() -> None:
    """Lone surrogates (file names that are no UTF-8) leave as JSON escapes, so the document is valid UTF-8."""
    document = render_error(errors.PluginError("bad \udcff name"), "1.1.0")
    assert b'"bad \\udcff name"' in document
    assert json.loads(document.decode())["code"] == 999
